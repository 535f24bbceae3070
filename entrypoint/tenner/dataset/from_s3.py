"""A dataset in a bucket: a prefix, or one archive, of AWS or any server that speaks S3.

Kept as a mirror: objects that are here in the same version are not fetched again, objects that are
gone there are removed here, and an interrupted download is resumed.
"""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tenner.core.errors import DatasetError, Problem, SettingsError
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.core.secrets import secrets_from
from tenner.dataset.request import DatasetRequest, dataset_address
from tenner.storage.bucket_address import read_bucket
from tenner.storage.destination import Destination
from tenner.storage.endpoint import find_endpoint
from tenner.storage.http import OnBytes, refuse_size
from tenner.storage.mirror import Mirror, RemoteFile
from tenner.storage.s3_client import NUM_CONNECTIONS, S3Client, call, open_client
from tenner.storage.s3_download import download_object

DAY_SECONDS = 24 * 3600
LIST_SECONDS = 60
NEEDS = msg("these keys need s3:ListBucket and s3:GetObject there")


@dataclass(frozen=True, kw_only=True)
class _Bucket:
    """A client, and the address in its bucket that is fetched."""

    client: S3Client
    address: Destination

    def listed(self, deadline: Deadline) -> list[RemoteFile]:
        """The object at the address, or every object below it as a prefix."""
        found = self._page_through(self.address.prefix, deadline)
        exact = [each for each in found if each.key == self.address.prefix and each.key]
        if exact:
            return exact
        start = f"{self.address.prefix}/" if self.address.prefix else ""
        return [each for each in found if each.key.startswith(start)]

    def _page_through(self, prefix: str, deadline: Deadline) -> list[RemoteFile]:
        query = {"Bucket": self.address.root, "Prefix": prefix}
        found: list[RemoteFile] = []
        more: dict[str, str] = {}
        while True:
            page = call(self.address, deadline, self.client.list_objects_v2, **query, **more)
            for each in page.get("Contents", ()):
                key = str(each["Key"])
                if not key.endswith("/"):
                    found.append(
                        RemoteFile(
                            key=key, size=int(each["Size"]), version=str(each.get("ETag", ""))
                        )
                    )
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def fetch(self, key: str, target: Path, deadline: Deadline) -> None:
        name = {"Bucket": self.address.root, "Key": key}
        download_object(self.client, self.address, name, target, deadline)


def fetch_from_s3(
    source: str, request: DatasetRequest, cache: Path, on_bytes: OnBytes | None
) -> Path:
    """The folder that mirrors `source`. Raises DatasetError."""
    try:
        bucket = _open(source, os.environ)
        listed = retrying(Deadline(LIST_SECONDS), lambda: bucket.listed(Deadline(LIST_SECONDS)))
        if not listed:
            raise DatasetError(
                msg("{source} holds no files", source=source),
                fix=msg("check the prefix, letter by letter"),
            )
        refuse_size(sum(each.size for each in listed), request.max_bytes)
        folder = cache / "s3" / hashlib.sha256(source.encode()).hexdigest()[:32]
        mirror = Mirror(folder, {_name(each.key, bucket.address): each for each in listed})
        return _fill(mirror, bucket, on_bytes)
    except PermanentError as refused:
        fix = refused.problem.fix if "s3:PutObject" not in refused.problem.fix else NEEDS
        raise DatasetError(problems=[Problem(text=refused.problem.text, fix=fix)]) from None
    except TransientError as trouble:
        raise DatasetError(
            msg("{source} cannot be fetched: {trouble}", source=source, trouble=trouble),
            fix=msg("check the network and the endpoint; starting again resumes the download"),
        ) from None
    except OSError as error:
        fix = msg("free disk space, or set TENNER_CACHE_DIR")
        raise DatasetError(
            msg(
                "{source} cannot be stored in {cache}: {error}",
                source=source,
                cache=cache,
                error=error,
            ),
            fix=fix,
        ) from error


def _open(source: str, environ: Mapping[str, str]) -> _Bucket:
    secrets, problems = secrets_from(environ)
    try:
        address = read_bucket(source, dataset_address)
        endpoint = find_endpoint(
            address.root, requested=address.endpoint_url, region=address.region, env=environ
        )
    except SettingsError as error:
        raise DatasetError(problems=[*problems, *error.problems]) from None
    except ValueError as error:
        fix = msg(
            "write it as https://host or https://host:port (AWS_ENDPOINT_URL or endpoint_url=)"
        )
        raise DatasetError(msg("{source}: {error}", source=source, error=error), fix=fix) from None
    client = open_client(address, endpoint, secrets=secrets, env=environ, signs_payload=True)
    return _Bucket(client=client, address=address)


def _name(key: str, address: Destination) -> str:
    """The object's path below the prefix. Raises DatasetError for one that leads elsewhere."""
    name = key.removeprefix(address.prefix).lstrip("/") if key != address.prefix else key
    name = name if key != address.prefix else PurePosixPath(key).name
    parts = name.split("/")
    if ".." in parts or "." in parts or "" in parts or "\\" in name or "\0" in name:
        raise DatasetError(
            msg('the object "{key}" would be written outside the folder', key=key),
            fix=msg("rename it in the bucket"),
        )
    return name


def _fill(mirror: Mirror, bucket: _Bucket, on_bytes: OnBytes | None) -> Path:
    deadline = Deadline(DAY_SECONDS)
    mirror.remove_outdated()
    missing = mirror.missing()
    total = mirror.num_bytes
    done = total - sum(each.size for each in missing.values())

    def fetch(name: str) -> int:
        bucket.fetch(missing[name].key, mirror.path(name), deadline)
        return mirror.arrived(name)

    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        for num_bytes in pool.map(fetch, missing):
            done += num_bytes
            if on_bytes:
                on_bytes(done, total)
    return mirror.folder

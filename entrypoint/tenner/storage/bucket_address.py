"""Addresses of buckets and of remotes: `s3://bucket/prefix`, `gs://bucket/prefix`,
`azure://container/prefix`, `rclone:REMOTE:path`.

Destinations, datasets and bases are all named so; errors begin with what the address is for.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from tenner.core.addresses import MASK
from tenner.core.errors import Problem, SettingsError
from tenner.core.messages import Message, msg
from tenner.storage.destination import Destination, Kind
from tenner.storage.pasted_address import PastedAddress

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CONTAINER = re.compile(r"[a-z0-9$][a-z0-9._$-]{1,221}")
_REMOTE = re.compile(r"[\w.+@][\w.+@ -]*")
"""Names that rclone gives to remotes; a connection string (`:s3,key=…:`) is none."""
_ADDRESSING: dict[str, Literal["path", "virtual"]] = {"path": "path", "virtual": "virtual"}
_LONGEST_LINK_SECONDS = 7 * 24 * 3600  # what Signature Version 4 allows
_EXAMPLES = msg(
    "s3://bucket/prefix, gs://bucket/prefix, azure://container/prefix or rclone:REMOTE:path"
)


def read_bucket(text: str, named: Callable[[str], Message]) -> Destination:
    """The bucket or remote that `text` names; `named` makes of an address the words for it in
    errors, such as `dataset s3://a`.

    Raises SettingsError with every problem that `text` has.
    """
    pasted = PastedAddress.of(text, named)
    found = parse_bucket(pasted)
    if found is None:
        raise SettingsError(
            msg("{address} is not the address of a bucket", address=pasted.title),
            fix=msg("use {examples}", examples=_EXAMPLES),
        )
    return found


def parse_bucket(pasted: PastedAddress) -> Destination | None:
    """The bucket or remote, by the address's scheme; None for all other schemes.

    Raises SettingsError with every problem that the address has.
    """
    address = pasted.text
    if address.startswith("arn:aws:s3:::"):
        return parse_s3(pasted, f"s3://{address.removeprefix('arn:aws:s3:::')}")
    if address.lower().startswith("rclone:"):
        return _parse_rclone(pasted)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", address)
    match scheme.group(1).lower() if scheme else "":
        case "s3":
            return parse_s3(pasted, address)
        case "gs" | "gcs":
            return _parse_container("gs", pasted)
        case "azure" | "az" | "abfs" | "abfss":
            return _parse_container("azure", pasted)
        case _:
            return None


def _root_prefix_query(address: str) -> tuple[str, str, str]:
    """Bucket, path in it and options of `scheme://bucket/path?options`."""
    body, _, query = re.sub(r"^[A-Za-z0-9]+:/+", "", address).partition("?")
    bucket, _, rest = body.partition("/")
    return bucket, _joined_path(rest), query


def _joined_path(path: str) -> str:
    return "/".join(part for part in path.split("/") if part)


def parse_s3(pasted: PastedAddress, clean: str) -> Destination:
    """The bucket of `clean`, which is what was pasted in the form `s3://bucket/prefix?options`.

    Raises SettingsError with every problem that it has.
    """
    bucket, prefix, query = _root_prefix_query(clean)
    options, problems = pasted.options("s3", query)
    problems += _s3_name_problems(bucket, pasted)
    problems += pasted.path_problems(prefix)
    addressing = options.get("addressing")
    if addressing is not None and addressing not in _ADDRESSING:
        text = msg("{address}: addressing is {value}", address=pasted.title, value=repr(addressing))
        fix = msg("use addressing=path or addressing=virtual")
        problems.append(Problem(text=text, fix=fix))
    link_seconds = _link_seconds(options.get("links", ""), pasted, problems)
    if problems:
        raise SettingsError(problems=problems)
    destination = Destination(
        kind="s3",
        root=bucket,
        prefix=prefix,
        required="optional" not in options,
        endpoint_url=_without_user(options.get("endpoint_url")),
        region=options.get("region"),
        profile=options.get("profile"),
        addressing=None if addressing is None else _ADDRESSING[addressing],
        link_seconds=link_seconds,
    )
    return pasted.with_note(destination)


def _s3_name_problems(bucket: str, pasted: PastedAddress) -> list[Problem]:
    """What is wrong with a bucket's name by the rules of S3, each with the name that was probably
    meant."""
    if "@" in bucket:
        return [
            Problem(
                text=msg("{address} has keys in its address", address=pasted.title),
                fix=msg(
                    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, and write"
                    " s3://{bucket}",
                    bucket=bucket.rpartition("@")[2],
                ),
            )
        ]
    if _BUCKET.fullmatch(bucket) and ".." not in bucket:
        return []
    better = re.sub(r"[^a-z0-9.-]+", "-", bucket.lower()).strip("-.")
    hint = (
        msg("did you mean s3://{better}?", better=better)
        if _BUCKET.fullmatch(better)
        else msg("use {examples}", examples=_EXAMPLES)
    )
    text = msg(
        "{address}: {bucket} is no bucket name (3 to 63 of a-z, 0-9, dots and hyphens)",
        address=pasted.title,
        bucket=repr(bucket),
    )
    return [Problem(text=text, fix=hint)]


def _without_user(url: str | None) -> str | None:
    """An endpoint's address: keys come from AWS_*, never from it."""
    return url.replace(f"//{MASK}@", "//") if url else url


def _link_seconds(text: str, pasted: PastedAddress, problems: list[Problem]) -> int:
    """How long links are valid, in seconds; 0 where it is not set. Appends to `problems`."""
    if not text:
        return 0
    match = re.fullmatch(r"(\d+)\s*([smhd]?)", text)
    seconds = (
        int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2] or "s"] if match else 0
    )
    if not 0 < seconds <= _LONGEST_LINK_SECONDS:
        problems.append(
            Problem(
                text=msg(
                    "{address}: links={text} is no time between 1s and 7d",
                    address=pasted.title,
                    text=repr(text),
                ),
                fix=msg("use links=24h or links=7d; S3 signs no link for longer"),
            )
        )
    return seconds


def _parse_container(kind: Kind, pasted: PastedAddress) -> Destination:
    """A bucket of Google Cloud Storage, or a container of Azure Blob Storage."""
    bucket, prefix, query = _root_prefix_query(pasted.text)
    options, problems = pasted.options(kind, query)
    if not _CONTAINER.fullmatch(bucket):
        text = msg(
            "{address}: {bucket} is no bucket or container name",
            address=pasted.title,
            bucket=repr(bucket),
        )
        problems.append(Problem(text=text, fix=msg("use {examples}", examples=_EXAMPLES)))
    problems += pasted.path_problems(prefix)
    if problems:
        raise SettingsError(problems=problems)
    required = "optional" not in options
    found = Destination(kind=kind, root=bucket, prefix=prefix, required=required)
    usual = re.sub(r"^(?:gcs|az|abfss?):", f"{kind}:", pasted.text)
    return replace(pasted, text=usual).with_note(found)


def _parse_rclone(pasted: PastedAddress) -> Destination:
    """A folder of a remote in the user's rclone configuration."""
    body, _, query = pasted.text.partition(":")[2].removeprefix("//").partition("?")
    remote, colon, path = body.partition(":")
    prefix = _joined_path(path)
    options, problems = pasted.options("rclone", query)
    if not colon or not _REMOTE.fullmatch(remote):
        text = msg("{address} names no remote of rclone", address=pasted.title)
        fix = msg("write rclone:REMOTE:path, with a name that rclone listremotes shows")
        problems.append(Problem(text=text, fix=fix))
    problems += pasted.path_problems(prefix)
    if problems:
        raise SettingsError(problems=problems)
    root = f"/{prefix}" if path.startswith("/") else prefix
    required = "optional" not in options
    return Destination(kind="rclone", root=remote, prefix=root, required=required)

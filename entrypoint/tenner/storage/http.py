"""Fetches a file over HTTP into a cache: again only where it has changed, and resumed after a cut.

A file's version as its server names it (ETag, Last-Modified, length) is stored beside it. A cached
file is revalidated with it (`If-None-Match`); the rest of a partial one is fetched only of the same
version (`If-Range`; of a server that names none, while the length is the same), so that no file is
put together from two.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tenner.core.addresses import Address, full_address, without_credentials_in
from tenner.core.errors import DatasetError, TennerError
from tenner.core.files import write_atomically
from tenner.core.messages import Message, msg
from tenner.core.retry import retry_policy
from tenner.storage.redirects import RedirectGuard

if TYPE_CHECKING:
    import httpx

OnBytes = Callable[[int, int | None], None]
ATTEMPTS = 5
"""Failed tries in a row, without a new byte, after which a download is given up."""
FIRST_WAIT_SECONDS = 0.5
"""Before the second try; doubled at each further one."""
TIMEOUT_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Version:
    """A file's version as its server names it; `length` in bytes."""

    etag: str = ""
    last_modified: str = ""
    length: int | None = None

    @property
    def condition(self) -> str:
        """What `If-Range` may carry: a strong ETag, else the time; empty where there is neither."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else ""
        return strong or self.last_modified


@dataclass(frozen=True, kw_only=True)
class DownloadKind:
    """The texts and the type of errors for what is downloaded, and `headers` for its requests."""

    error: type[TennerError] = DatasetError
    content: Message = msg("an archive")
    too_large: Message = msg("the dataset is larger than")
    too_large_fix: Message = msg("pack only the images and captions, or set max_dataset_gb")
    denied_fix: Message = msg("check that the link opens without signing in")
    page_fix: Message = msg("give the direct link to the file, as a browser's download shows it")
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    inspect: Callable[[bytes, int | None], None] = lambda beginning, length: None
    """Gets the first bytes of a whole answer and its length; raises where they are wrong."""


DATASET = DownloadKind()


class Unreachable(DatasetError):
    """The server cannot be reached, or does not answer as one."""


def download(
    url: str,
    target: Path,
    *,
    max_bytes: int,
    on_bytes: OnBytes | None = None,
    kind: DownloadKind = DATASET,
) -> None:
    """Bring the file of `url` to `target`, or leave it where it is the same already.

    A cached file stays as it is where its server cannot be reached. Raises `kind.error`: for a
    dataset, DatasetError.
    """
    import httpx

    url = Address(url)
    if url.lacks_credentials:
        raise kind.error(
            msg(
                "{url} is an address without its password or token, which are never written down",
                url=url,
            ),
            fix=msg("give the whole address again"),
        )
    name = Path(urlsplit(url).path).name or msg("the file")
    host = urlsplit(url).hostname or url
    task = _Task(url=url, target=target, max_bytes=max_bytes, on_bytes=on_bytes, kind=kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = 0

    def once() -> None:
        nonlocal failures
        before = _size(task.part)
        try:
            task.run()
        except httpx.HTTPError:
            if not target.is_file():
                failures = 1 if _size(task.part) > before else failures + 1
                raise

    again = retry_policy(
        lambda error: isinstance(error, httpx.HTTPError),
        lambda _: failures >= ATTEMPTS,
        first_seconds=FIRST_WAIT_SECONDS,
        longest_seconds=FIRST_WAIT_SECONDS * 2 ** (ATTEMPTS - 1),
    )
    try:
        again(once)
    except httpx.InvalidURL as error:
        why = without_credentials_in(str(error))
        raise kind.error(
            msg("{url} is no address: {why}", url=url, why=why), fix=msg("correct it")
        ) from None
    except httpx.HTTPError as error:
        unreachable = Unreachable if kind is DATASET else kind.error
        raise unreachable(
            msg(
                "{name} cannot be fetched from {host}: {without_credentials_in}",
                name=name,
                host=host,
                without_credentials_in=without_credentials_in(str(error)),
            ),
            fix=msg("check the address; a second start resumes where this one ended"),
        ) from None
    except OSError as error:
        raise kind.error(
            msg(
                "{name} cannot be written to {parent}: {error}",
                name=name,
                parent=target.parent,
                error=error,
            ),
            fix=msg("free disk space, or set TENNER_CACHE_DIR"),
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One download: its address, its target, and the limits that it has to keep."""

    url: str
    target: Path
    max_bytes: int
    on_bytes: OnBytes | None
    kind: DownloadKind

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    def run(self) -> None:
        """One request and its answer. Raises httpx.HTTPError where another try may do."""
        import httpx

        cached = _read_version(self.target) if self.target.is_file() else None
        partial = _read_version(self.part) if cached is None else None
        have = _size(self.part) if partial and (partial.condition or partial.length) else 0
        headers = {**self.kind.headers, **_headers(cached, partial, have)}
        guard: Any = RedirectGuard(error=self.kind.error)
        with (
            httpx.Client(
                event_hooks=guard.hooks, follow_redirects=True, timeout=TIMEOUT_SECONDS
            ) as client,
            client.stream("GET", full_address(self.url), headers=headers) as answer,
        ):
            if answer.status_code == 304 and cached:
                return
            if answer.status_code == 416:
                self.part.unlink(missing_ok=True)  # the partial file is of another version
                raise httpx.ReadError(msg("the file has changed"))
            _refuse(answer, self.kind)
            version = _version_of(answer, have)
            if answer.status_code == 206 and partial and partial.length != version.length:
                self.part.unlink(missing_ok=True)
                raise httpx.ReadError(msg("the file has changed"))
            if cached and _same_without_validator(cached, version):
                return
            self._receive(answer, version, have if answer.status_code == 206 else 0)

    def _receive(self, answer: "httpx.Response", version: Version, have: int) -> None:
        """Write the answer to the partial file, behind the `have` bytes that are there, and rename
        it once it is whole. Raises httpx.ReadError where the answer is cut off."""
        import httpx

        total = version.length
        refuse_size(total or 0, self.max_bytes, self.kind)
        _write_version(self.part, version)
        with self.part.open("ab" if have else "wb") as out:
            for chunk in answer.iter_raw():
                if not have:
                    self.kind.inspect(chunk, total)
                have += len(chunk)
                refuse_size(have, self.max_bytes, self.kind)
                out.write(chunk)
                if self.on_bytes:
                    self.on_bytes(have, total)
        if total is not None and have != total:
            raise httpx.ReadError("cut off")
        self.part.replace(self.target)
        _write_version(self.target, version)
        _version_file(self.part).unlink(missing_ok=True)


def read_beginning(
    url: str, num_bytes: int, *, kind: DownloadKind = DATASET
) -> tuple[bytes, int | None]:
    """The first `num_bytes` bytes of a file, requested with a range, and the size of all of it in
    bytes, None where the server does not give it.

    A server that takes no ranges is cut off after them. Raises `kind.error`.
    """
    import httpx

    headers = {**kind.headers, "Accept-Encoding": "identity"}
    headers["Range"] = f"bytes=0-{num_bytes - 1}"

    def once() -> tuple[bytes, int | None]:
        guard: Any = RedirectGuard(error=kind.error)
        with (
            httpx.Client(
                event_hooks=guard.hooks, follow_redirects=True, timeout=TIMEOUT_SECONDS
            ) as client,
            client.stream("GET", full_address(url), headers=headers) as answer,
        ):
            _refuse(answer, kind)
            found = bytearray()
            for chunk in answer.iter_raw():
                found += chunk
                if len(found) >= num_bytes:
                    break
            return bytes(found[:num_bytes]), _whole_size(answer)

    again = retry_policy(
        lambda error: isinstance(error, httpx.HTTPError),
        lambda state: state.attempt_number >= ATTEMPTS,
        first_seconds=FIRST_WAIT_SECONDS,
        longest_seconds=FIRST_WAIT_SECONDS * 2 ** (ATTEMPTS - 1),
    )
    try:
        return again(once)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise kind.error(
            msg(
                "{name} cannot be fetched from {host}: {without_credentials_in}",
                name=Path(urlsplit(url).path).name or msg("the file"),
                host=urlsplit(url).hostname or url,
                without_credentials_in=without_credentials_in(str(error)),
            ),
            fix=msg("check the address and the network of this machine"),
        ) from None


def _whole_size(answer: "httpx.Response") -> int | None:
    """Bytes of the whole file, by the answer to a request for its beginning."""
    if answer.status_code == 206:
        length = answer.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def refuse_size(num_bytes: int, max_bytes: int, kind: DownloadKind = DATASET) -> None:
    """Raise `kind.error` where a file is larger than it may be."""
    if num_bytes > max_bytes:
        raise kind.error(
            msg("{too_large} {size} GB", too_large=kind.too_large, size=f"{max_bytes / 1024**3:g}"),
            fix=kind.too_large_fix,
        )


def _headers(cached: Version | None, partial: Version | None, have: int) -> dict[str, str]:
    """Headers of the request: conditional for a cached file, or for the rest of a partial one."""
    headers = {"Accept-Encoding": "identity"}
    if cached and cached.etag:
        headers["If-None-Match"] = cached.etag
    if cached and cached.last_modified:
        headers["If-Modified-Since"] = cached.last_modified
    if partial and have:
        headers["Range"] = f"bytes={have}-"
    if partial and have and partial.condition:
        headers["If-Range"] = partial.condition
    return headers


def _version_of(answer: "httpx.Response", have: int) -> Version:
    """The version of the whole file; of a part's answer the length counts what is here already."""
    length = answer.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    if answer.status_code == 206 and total is not None:
        total += have
    return Version(
        etag=answer.headers.get("ETag", ""),
        last_modified=answer.headers.get("Last-Modified", ""),
        length=total,
    )


def _same_without_validator(cached: Version, now: Version) -> bool:
    """Whether a server that names no version serves a file of the cached one's length."""
    if now.etag or now.last_modified or now.length is None:
        return False
    return cached.length == now.length


def _refuse(answer: "httpx.Response", kind: DownloadKind) -> None:
    """Raise `kind.error` for an answer that another try would not change, httpx.HTTPStatusError for
    others, and nothing for a file."""
    host, status = answer.url.host, answer.status_code
    if status in (401, 403, 404, 410):
        why = {404: msg("there is no such file"), 410: msg("the file is gone")}.get(
            status, msg("access is denied")
        )
        is_address = status in (404, 410) and kind is not DATASET
        fix = msg("check the address, letter for letter") if is_address else kind.denied_fix
        raise kind.error(
            msg("{host} answers {status}: {why}", host=host, status=status, why=why),
            fix=fix,
        )
    answer.raise_for_status()
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise kind.error(
            msg("{host} answers with a web page, not {content}", host=host, content=kind.content),
            fix=kind.page_fix,
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version_file(path: Path) -> Path:
    return path.with_name(path.name + ".version.json")


def _write_version(path: Path, version: Version) -> None:
    write_atomically(_version_file(path), json.dumps(asdict(version)))


def _read_version(path: Path) -> Version:
    """The stored version of a cached file; empty where it is missing or cannot be read."""
    try:
        found: Mapping[str, Any] = json.loads(_version_file(path).read_text(encoding="utf-8"))
        return Version(**{key: found[key] for key in ("etag", "last_modified", "length")})
    except (OSError, ValueError, TypeError, KeyError):
        return Version()

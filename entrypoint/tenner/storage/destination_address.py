"""Reads the addresses of destinations: `s3://bucket/prefix`, `gs://bucket/prefix`,
`azure://container/prefix`, `hf://user/repo`, `rclone:REMOTE:path`, `file:///path`.

People paste what their browser or console shows: these shapes are understood, corrected where the
meaning is certain (each correction becomes a note), and refused with a fix where it is not. Options
that follow a `?` are in `pasted_address`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tenner.core.errors import Problem, SettingsError
from tenner.core.messages import Message, msg
from tenner.storage.bucket_address import parse_bucket, parse_s3
from tenner.storage.destination import Destination
from tenner.storage.endpoint import ENDPOINT_HOSTS, bucket_in_host
from tenner.storage.pasted_address import PastedAddress

_HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_HUB_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_EXAMPLES = msg(
    "s3://bucket/prefix, gs://bucket/prefix, azure://container/prefix, hf://user/repo,"
    " rclone:REMOTE:path or file:///folder"
)


def parse_destinations(
    texts: Iterable[str],
) -> tuple[tuple[Destination, ...], tuple[Problem, ...]]:
    """All destinations that can be read and all problems with the others, by value.

    Corrections come as problems of level `note`; a destination named twice is used once.
    """
    found: dict[str, Destination] = {}
    problems: list[Problem] = []
    for text in texts:
        try:
            destination = parse_destination(text)
        except SettingsError as error:
            problems.extend(error.problems)
            continue
        problems.extend(Problem(text=note, level="note") for note in destination.notes)
        found.setdefault(f"{destination} {destination.endpoint_url}", destination)
    return tuple(found.values()), tuple(problems)


def parse_destination(text: str) -> Destination:
    """Read one destination. Raises SettingsError with every problem that `text` has."""
    pasted = PastedAddress.of(text, _destination)
    address = pasted.text
    if not address:
        raise SettingsError(
            msg("a destination is empty"), fix=msg("use {examples}", examples=_EXAMPLES)
        )
    if re.match(r"[A-Za-z]:[\\/]", address):
        raise SettingsError(
            msg("{address} is a path on a Windows PC", address=pasted.title),
            fix=msg("mount the folder into the container and name it as file:///workspace/output"),
        )
    if bucket := parse_bucket(pasted):
        return bucket
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", address)
    match scheme.group(1).lower() if scheme else "":
        case "hf" | "huggingface" | "hub":
            return _parse_hub(pasted, re.sub(r"^[A-Za-z]+:/+", "", address))
        case "file":
            return _parse_folder(
                pasted, re.sub(r"^[A-Za-z]+://(?=/|~|\.)|^[A-Za-z]+:(?=/[^/])", "", address)
            )
        case "http" | "https":
            return _parse_url(pasted)
        case "":
            return _parse_plain(pasted)
        case other:
            raise SettingsError(
                msg("{address}: cannot deliver to {other}://", address=pasted.title, other=other),
                fix=msg("use {examples}", examples=_EXAMPLES),
            )


def _destination(address: str) -> Message:
    return msg("destination {address}", address=address)


def _parse_plain(pasted: PastedAddress) -> Destination:
    """An address without a scheme: of the Hub's web site, or a path where it begins as one. Raises
    SettingsError where it could mean several things."""
    address = pasted.text
    host, _, path = address.partition("/")
    if host.lower() in _HUB_HOSTS:
        return _parse_hub(pasted, path)
    if address.startswith(("/", "./", "../", "~")) or address in {".", ".."}:
        return _parse_folder(pasted, address)
    raise SettingsError(
        msg(
            "{address} may be a folder, a bucket or a Hugging Face repo",
            address=pasted.title,
        ),
        fix=msg("write s3://{address}, hf://{address} or ./{address}", address=address),
    )


def _parse_url(pasted: PastedAddress) -> Destination:
    """A browser's or console's address of a repo or a bucket."""
    parts = urlsplit(pasted.text)
    host = (parts.hostname or "").lower()
    path = unquote(parts.path).strip("/")
    query = f"?{parts.query}" if parts.query else ""
    if host in _HUB_HOSTS:
        return _parse_hub(pasted, path + query)
    if not ENDPOINT_HOSTS.search(host):
        raise SettingsError(
            msg("{address} is a web address tenner cannot write to", address=pasted.title),
            fix=msg(
                "use {examples}; for your own S3 server:"
                " s3://bucket/prefix?endpoint_url={scheme}://{rpartition}",
                examples=_EXAMPLES,
                scheme=parts.scheme,
                rpartition=parts.netloc.rpartition("@")[2],
            ),
        )
    bucket, endpoint = bucket_in_host(host)
    if not bucket:
        bucket, _, path = path.partition("/")
    options = parts.query
    if not endpoint.endswith("amazonaws.com"):
        options = f"endpoint_url=https://{endpoint}" + (f"&{options}" if options else "")
    elif region := re.search(r"s3[.-]([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws", endpoint):
        options = f"region={region[1]}" + (f"&{options}" if options else "")
    clean = f"s3://{bucket}" + (f"/{path}" if path else "") + (f"?{options}" if options else "")
    return parse_s3(pasted, clean)


def _parse_hub(pasted: PastedAddress, clean: str) -> Destination:
    """A model repo of the Hub, from `hf://user/repo/folder` or a browser's address of it. Raises
    SettingsError with every problem of the address."""
    body, _, query = clean.partition("?")
    options, problems = pasted.options("hub", query)
    parts = [part.strip() for part in unquote(body).split("/") if part.strip()]
    if parts[:1] == ["models"]:
        parts = parts[1:]
    if parts[:1] in (["datasets"], ["spaces"]):
        problems.append(
            Problem(
                text=msg(
                    "{address} is a {parts} repo; a LoRA goes to a model repo",
                    address=pasted.title,
                    parts=parts[0][:-1],
                ),
                fix=msg("use hf://user/repo"),
            )
        )
        raise SettingsError(problems=problems)
    revision = options.get("revision", "main")
    if len(parts) >= 4 and parts[2] in {"tree", "blob", "resolve"}:
        revision, parts = parts[3], [*parts[:2], *parts[4:]]
    if len(parts) >= 2 and "@" in parts[1]:
        parts[1], _, revision = parts[1].partition("@")
    if len(parts) < 2:
        problems.append(
            Problem(
                text=msg("{address} has no user or no repo name", address=pasted.title),
                fix=msg("use hf://your-user-name/{parts}", parts=parts[0] if parts else "my-lora"),
            )
        )
        raise SettingsError(problems=problems)
    user, repo = parts[0], _corrected_repo_name(parts[1])
    for what, name, written in (("user", user, parts[0]), ("repo", repo, parts[1])):
        if not _HUB_NAME.fullmatch(name) or ".." in name or "--" in name or name.endswith(".git"):
            problems.append(
                Problem(
                    text=msg(
                        "{address}: {name} is no {what} name on Hugging Face",
                        address=pasted.title,
                        name=repr(written),
                        what=what,
                    ),
                    fix=msg("use letters, digits, '-', '_' and '.', such as hf://user/my-lora"),
                )
            )
    problems += pasted.path_problems("/".join(parts[2:]))
    if problems:
        raise SettingsError(problems=problems)
    destination = Destination(
        kind="hub",
        root=f"{user}/{repo}",
        prefix="/".join(parts[2:]),
        required="optional" not in options,
        private="public" not in options,
        revision=revision or "main",
    )
    return pasted.with_note(destination)


def _corrected_repo_name(pasted: str) -> str:
    """Blanks and signs the Hub refuses become single hyphens; letters it refuses stay."""
    name = pasted.removesuffix(".git")
    name = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII) if name.isascii() else name
    name = re.sub(r"-{2,}", "-", name)
    return re.sub(r"\.{2,}", ".", name).strip("-.")[:96]


def _parse_folder(pasted: PastedAddress, clean: str) -> Destination:
    """A local folder from `file://PATH` or a path. Raises SettingsError."""
    body, _, query = clean.partition("?") if clean != pasted.text else (clean, "", "")
    options, problems = pasted.options("folder", query)
    if clean != pasted.text:
        body = unquote(body)
    if not body.startswith(("/", ".", "~")):
        problems.append(
            Problem(
                text=msg("{address} names a host, not a folder", address=pasted.title),
                fix=msg(
                    "use three slashes: file:///{partition}",
                    partition=body.partition("//")[2] or body,
                ),
            )
        )
    if problems:
        raise SettingsError(problems=problems)
    folder = Path(body).expanduser().absolute()
    return Destination(kind="folder", root=str(folder), required="optional" not in options)

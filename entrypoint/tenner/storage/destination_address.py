"""Destinations as they are written: `s3://bucket/prefix`, `gs://bucket/prefix`,
`azure://container/prefix`, `hf://user/repo`, `rclone:REMOTE:path`, `file:///path`.

People paste what their browser or console shows: these shapes are understood, corrected where the
meaning is certain (each correction becomes a note), and refused with a fix where it is not.

Options follow a `?`: `endpoint_url`, `region`, `profile`, `addressing` (`path`, `virtual`) and
`links` (how long presigned links are valid: `12h`, `7d`) for S3; `public` and `revision` for the
Hub; `optional` (this one failing does not fail the run) for all.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tenner.core.addresses import MASK, full_address, without_credentials
from tenner.core.errors import Problem, SettingsError
from tenner.core.messages import msg
from tenner.core.secrets import redact_shapes
from tenner.storage.destination import Destination, Kind
from tenner.storage.endpoint import ENDPOINT_HOSTS, bucket_in_host

_HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_HUB_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_OPTIONS: dict[Kind, frozenset[str]] = {
    "s3": frozenset({"endpoint_url", "region", "profile", "addressing", "links", "optional"}),
    "hub": frozenset({"public", "revision", "optional"}),
    "folder": frozenset({"optional"}),
    "gs": frozenset({"optional"}),
    "azure": frozenset({"optional"}),
    "rclone": frozenset({"optional"}),
}
_LONGEST_LINK_SECONDS = 7 * 24 * 3600  # what Signature Version 4 allows
_EXAMPLES = msg(
    "s3://bucket/prefix, gs://bucket/prefix, azure://container/prefix, hf://user/repo,"
    " rclone:REMOTE:path or file:///folder"
)
_REMOTE = re.compile(r"[\w.+@][\w.+@ -]*")
"""Names that rclone gives to remotes; a connection string (`:s3,key=…:`) is none."""


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
    # No destination takes credentials from its address: without them it is all that is needed.
    address = without_credentials(full_address(text).strip().strip("\"'"))
    if not address:
        raise SettingsError(
            msg("a destination is empty"), fix=msg("use {examples}", examples=_EXAMPLES)
        )
    if address.startswith("arn:aws:s3:::"):
        return _parse_s3(address, f"s3://{address.removeprefix('arn:aws:s3:::')}")
    if re.match(r"[A-Za-z]:[\\/]", address):
        raise SettingsError(
            msg("destination {address} is a path on a Windows PC", address=address),
            fix=msg("mount the folder into the container and name it as file:///workspace/output"),
        )
    if address.lower().startswith("rclone:"):
        return _parse_rclone(address)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", address)
    match scheme.group(1).lower() if scheme else "":
        case "s3":
            return _parse_s3(address, address)
        case "gs" | "gcs":
            return _parse_bucket("gs", address)
        case "azure" | "az" | "abfs" | "abfss":
            return _parse_bucket("azure", address)
        case "hf" | "huggingface" | "hub":
            return _parse_hub(address, re.sub(r"^[A-Za-z]+:/+", "", address))
        case "file":
            return _parse_folder(
                address, re.sub(r"^[A-Za-z]+://(?=/|~|\.)|^[A-Za-z]+:(?=/[^/])", "", address)
            )
        case "http" | "https":
            return _parse_url(address)
        case "":
            return _parse_plain(address)
        case other:
            raise SettingsError(
                msg(
                    "destination {shown}: cannot deliver to {other}://",
                    shown=_shown(address),
                    other=other,
                ),
                fix=msg("use {examples}", examples=_EXAMPLES),
            )


def _parse_plain(address: str) -> Destination:
    host, _, path = address.partition("/")
    if host.lower() in _HUB_HOSTS:
        return _parse_hub(address, path)
    if address.startswith(("/", "./", "../", "~")) or address in {".", ".."}:
        return _parse_folder(address, address)
    raise SettingsError(
        msg(
            "destination {shown} may be a folder, a bucket or a Hugging Face repo",
            shown=_shown(address),
        ),
        fix=msg("say which: s3://{address}, hf://{address} or ./{address}", address=address),
    )


def _parse_url(address: str) -> Destination:
    """A browser's or console's address of a repo or a bucket."""
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    path = unquote(parts.path).strip("/")
    query = f"?{parts.query}" if parts.query else ""
    if host in _HUB_HOSTS:
        return _parse_hub(address, path + query)
    if not ENDPOINT_HOSTS.search(host):
        raise SettingsError(
            msg(
                "destination {shown} is a web address tenner cannot write to", shown=_shown(address)
            ),
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
    return _parse_s3(address, clean)


def _parse_s3(address: str, clean: str) -> Destination:
    body, _, query = re.sub(r"^[A-Za-z0-9]+:/+", "", clean).partition("?")
    bucket, _, rest = body.partition("/")
    prefix = "/".join(part for part in rest.split("/") if part)
    options, problems = _options("s3", query, address)
    if "@" in bucket:
        problems.append(
            Problem(
                text=msg("destination {shown} has keys in its address", shown=_shown(address)),
                fix=msg(
                    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, and write"
                    " s3://{rpartition}",
                    rpartition=bucket.rpartition("@")[2],
                ),
            )
        )
    elif not _BUCKET.fullmatch(bucket) or ".." in bucket:
        better = re.sub(r"[^a-z0-9.-]+", "-", bucket.lower()).strip("-.")
        hint = (
            msg("did you mean s3://{better}?", better=better)
            if _BUCKET.fullmatch(better)
            else msg("use {examples}", examples=_EXAMPLES)
        )
        problems.append(
            Problem(
                text=msg(
                    "destination {shown}: {bucket} is no bucket name (3 to 63 of a-z, 0-9,"
                    " dots and hyphens)",
                    shown=_shown(address),
                    bucket=repr(bucket),
                ),
                fix=hint,
            )
        )
    problems += _path_problems(prefix, address)
    if options.get("addressing", "path") not in {"path", "virtual"}:
        problems.append(
            Problem(
                text=msg(
                    "destination {shown}: addressing is {options}",
                    shown=_shown(address),
                    options=repr(options["addressing"]),
                ),
                fix=msg("use addressing=path or addressing=virtual"),
            )
        )
    link_seconds = _link_seconds(options.get("links", ""), address, problems)
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
        addressing="virtual"
        if options.get("addressing") == "virtual"
        else ("path" if "addressing" in options else None),
        link_seconds=link_seconds,
    )
    return _with_note(destination, address)


def _parse_bucket(kind: Kind, address: str) -> Destination:
    """A bucket of Google Cloud Storage, or a container of Azure Blob Storage."""
    body, _, query = re.sub(r"^[A-Za-z0-9]+:/+", "", address).partition("?")
    bucket, _, rest = body.partition("/")
    prefix = "/".join(part for part in rest.split("/") if part)
    options, problems = _options(kind, query, address)
    if not re.fullmatch(r"[a-z0-9$][a-z0-9._$-]{1,221}", bucket):
        text = msg(
            "destination {shown}: {bucket} is no bucket or container name",
            shown=_shown(address),
            bucket=repr(bucket),
        )
        problems.append(Problem(text=text, fix=msg("use {examples}", examples=_EXAMPLES)))
    problems += _path_problems(prefix, address)
    if problems:
        raise SettingsError(problems=problems)
    required = "optional" not in options
    found = Destination(kind=kind, root=bucket, prefix=prefix, required=required)
    return _with_note(found, re.sub(r"^(?:gcs|az|abfss?):", f"{kind}:", address))


def _parse_rclone(address: str) -> Destination:
    """A folder of a remote in the user's rclone configuration."""
    body, _, query = address.partition(":")[2].removeprefix("//").partition("?")
    remote, colon, path = body.partition(":")
    prefix = "/".join(part for part in path.split("/") if part)
    options, problems = _options("rclone", query, address)
    if not colon or not _REMOTE.fullmatch(remote):
        text = msg("destination {shown} names no remote of rclone", shown=_shown(address))
        fix = msg("write rclone:REMOTE:path, with a name that rclone listremotes shows")
        problems.append(Problem(text=text, fix=fix))
    problems += _path_problems(prefix, address)
    if problems:
        raise SettingsError(problems=problems)
    root = f"{prefix}" if not path.startswith("/") else f"/{prefix}"
    required = "optional" not in options
    return Destination(kind="rclone", root=remote, prefix=root, required=required)


def _parse_hub(address: str, clean: str) -> Destination:
    body, _, query = clean.partition("?")
    options, problems = _options("hub", query, address)
    parts = [part.strip() for part in unquote(body).split("/") if part.strip()]
    if parts[:1] == ["models"]:
        parts = parts[1:]
    if parts[:1] in (["datasets"], ["spaces"]):
        problems.append(
            Problem(
                text=msg(
                    "destination {shown} is a {parts} repo; a LoRA goes to a model repo",
                    shown=_shown(address),
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
                text=msg("destination {shown} has no user or no repo name", shown=_shown(address)),
                fix=msg("use hf://your-user-name/{parts}", parts=parts[0] if parts else "my-lora"),
            )
        )
        raise SettingsError(problems=problems)
    user, repo = parts[0], _corrected_repo_name(parts[1])
    for what, name, pasted in (("user", user, parts[0]), ("repo", repo, parts[1])):
        if not _HUB_NAME.fullmatch(name) or ".." in name or "--" in name or name.endswith(".git"):
            problems.append(
                Problem(
                    text=msg(
                        "destination {shown}: {pasted} is no {what} name on Hugging Face",
                        shown=_shown(address),
                        pasted=repr(pasted),
                        what=what,
                    ),
                    fix=msg("use letters, digits, '-', '_' and '.', such as hf://user/my-lora"),
                )
            )
    problems += _path_problems("/".join(parts[2:]), address)
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
    return _with_note(destination, address)


def _corrected_repo_name(pasted: str) -> str:
    """Blanks and signs the Hub refuses become single hyphens; letters it refuses stay."""
    name = pasted.removesuffix(".git")
    name = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII) if name.isascii() else name
    name = re.sub(r"-{2,}", "-", name)
    return re.sub(r"\.{2,}", ".", name).strip("-.")[:96]


def _parse_folder(address: str, clean: str) -> Destination:
    body, _, query = clean.partition("?") if clean != address else (clean, "", "")
    options, problems = _options("folder", query, address)
    if clean != address:
        body = unquote(body)
    if not body.startswith(("/", ".", "~")):
        problems.append(
            Problem(
                text=msg("destination {shown} names a host, not a folder", shown=_shown(address)),
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


def _options(kind: Kind, query: str, address: str) -> tuple[dict[str, str], list[Problem]]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - _OPTIONS[kind])
    problems = [
        Problem(
            text=msg(
                "destination {shown}: unknown option {name}", shown=_shown(address), name=repr(name)
            ),
            fix=msg("use one of {options}", options=", ".join(sorted(_OPTIONS[kind]))),
        )
        for name in unknown
    ]
    for switch in ("optional", "public"):
        if options.get(switch, "").lower() in {"0", "false", "no"}:
            options.pop(switch, None)
    return options, problems


def _without_user(url: str | None) -> str | None:
    """An endpoint's address: keys come from AWS_*, never from it."""
    return url.replace(f"//{MASK}@", "//") if url else url


def _link_seconds(text: str, address: str, problems: list[Problem]) -> int:
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
                    "destination {shown}: links={text} is no time between 1s and 7d",
                    shown=_shown(address),
                    text=repr(text),
                ),
                fix=msg("use links=24h or links=7d; S3 signs no link for longer"),
            )
        )
    return seconds


def _path_problems(path: str, address: str) -> list[Problem]:
    if ".." in PurePosixPath(path).parts or any(ord(sign) < 32 for sign in path):
        return [
            Problem(
                text=msg(
                    "destination {shown} has '..' or a control character in its path",
                    shown=_shown(address),
                ),
                fix=msg("name the folder directly"),
            )
        ]
    return []


def _with_note(destination: Destination, address: str) -> Destination:
    """Note what was corrected: all that differs from what was pasted, options aside."""
    if f"{MASK}@" in address:
        note = msg(
            "{shown}: the user and password in it are not used; set AWS_* or HF_TOKEN",
            shown=_shown(address),
        )
        return replace(destination, notes=(note,))
    plain = unquote(address.partition("?")[0]).rstrip("/")
    if plain == str(destination) or quote(plain) == quote(str(destination)):
        return destination
    extra = (
        msg(" (branch {revision})", revision=destination.revision)
        if destination.revision != "main"
        else ""
    )
    if destination.kind == "hub" and destination.prefix:
        extra = msg(
            "{extra}: folder {prefix} of the repo {root}",
            extra=extra,
            prefix=destination.prefix,
            root=destination.root,
        )
    note = msg(
        "destination {shown} is taken as {destination}{extra}",
        shown=_shown(address),
        destination=destination,
        extra=extra,
    )
    return replace(destination, notes=(note,))


def _shown(address: str) -> str:
    """The pasted text without a password or signature in it."""
    return re.sub(r"^[^/@\s]+@", f"{MASK}@", redact_shapes(address))

"""Where a base model is to come from, as people paste it.

`hf://user/repo`, `hf://user/repo@revision/path/model.safetensors` and the Hub's web addresses,
`https://host/…/model.safetensors`, `s3://bucket/…/model.safetensors` or a folder there, and the
same at `gs://`, `azure://` and `rclone:REMOTE:`.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from tenner.core.addresses import Address, full_address
from tenner.core.errors import SettingsError
from tenner.core.messages import Message, msg
from tenner.families import KnownBase
from tenner.settings.known_bases import known_base
from tenner.storage.bucket_address import read_bucket

_HUB_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
_SECRET_PARTS = {"token", "api_key", "apikey", "key", "access_token"}
_EXAMPLES = msg("hf://user/repo, https://host/model.safetensors or s3://bucket/model.safetensors")


@dataclass(frozen=True, kw_only=True)
class BaseAddress:
    """`location` is the repo, the URL or the bucket; `path` a file or folder inside it.

    `known` is what tenner knows of it already: its licence, and its file by revision and SHA-256.
    """

    kind: Literal["hub", "web", "s3", "gs", "azure", "rclone"]
    location: str
    path: str = ""
    revision: str = "main"
    known: KnownBase | None = None
    options: str = ""

    @property
    def sha256(self) -> str:
        """Of the one file that is known; empty for everything else."""
        known = self.known
        if known is None or (self.path, self.revision) != (known.file, known.revision):
            return ""
        return known.sha256

    def __str__(self) -> str:
        """As it may be shown: without what follows a `?`."""
        if self.kind == "web":
            return self.location.partition("?")[0]
        at = f"@{self.revision}" if self.kind == "hub" and self.revision != "main" else ""
        if self.kind == "rclone":
            return f"rclone:{self.location}:{self.path}"
        scheme = "hf" if self.kind == "hub" else self.kind
        return f"{scheme}://{self.location}{at}" + (f"/{self.path}" if self.path else "")


def parse_base_address(text: str) -> BaseAddress | None:
    """Where `text` is to be fetched from; None where it names nothing that can be fetched.

    A short name, or any name of a known base, stands for that base's own file on the Hub. Raises
    SettingsError where the address is no valid one.
    """
    address = Address(full_address(text).strip().strip("\"'"))
    if address.lower().startswith("rclone:"):
        return _in_bucket(address)
    scheme, found, rest = address.partition("://")
    if not found:
        known = known_base(address)
        return _known(known) if known else None
    match scheme.lower():
        case "hf" | "huggingface":
            return _hub(address, rest)
        case "http" | "https":
            return _web(address)
        case "s3" | "gs" | "gcs" | "azure" | "az" | "abfs" | "abfss":
            return _in_bucket(address)
        case other:
            raise SettingsError(
                msg(
                    "base_model = {partition}: nothing is fetched from {other}://",
                    partition=address.partition("?")[0],
                    other=other,
                ),
                fix=msg("use {examples}", examples=_EXAMPLES),
            )


def _in_bucket(address: str) -> BaseAddress:
    """A file or folder in a bucket or in a remote of rclone; only S3 has options. Raises
    SettingsError."""
    plain, _, query = address.partition("?")
    options = query if plain.lower().startswith("s3:") else ""
    bucket = read_bucket(f"{plain}?{options}" if options else plain, base_address)
    if not bucket.prefix.strip("/"):
        raise SettingsError(
            msg("base_model = {address} names no file in a bucket", address=plain),
            fix=msg("use {examples}", examples=_EXAMPLES),
        )
    assert bucket.kind in ("s3", "gs", "azure", "rclone")
    return BaseAddress(kind=bucket.kind, location=bucket.root, path=bucket.prefix, options=options)


def base_address(address: str) -> Message:
    """How errors name the address of a base."""
    return msg("base_model = {address}", address=address)


def _known(known: KnownBase) -> BaseAddress:
    return BaseAddress(
        kind="hub", location=known.hub_id, path=known.file, revision=known.revision, known=known
    )


def _hub(address: str, rest: str) -> BaseAddress:
    parts = [part for part in unquote(rest.partition("?")[0]).split("/") if part]
    if parts[:1] == ["models"]:
        parts = parts[1:]
    if len(parts) < 2 or parts[0] in {"datasets", "spaces"}:
        raise SettingsError(
            msg("base_model = {address} names no model repo", address=address),
            fix=msg("use {examples}", examples=_EXAMPLES),
        )
    user, repo, inside = parts[0], parts[1], parts[2:]
    repo, _, revision = repo.partition("@")
    if len(inside) >= 2 and inside[0] in {"tree", "blob", "resolve"}:
        revision, inside = inside[1], inside[2:]
    known = known_base(f"{user}/{repo}")
    if known and not inside and not revision:
        return _known(known)
    return BaseAddress(
        kind="hub",
        location=known.hub_id if known else f"{user}/{repo}",
        path="/".join(inside),
        revision=revision or "main",
        known=known,
    )


def _web(address: Address) -> BaseAddress:
    parts = urlsplit(address.full)
    host = (parts.hostname or "").lower()
    if host in _HUB_HOSTS:
        return _hub(address.partition("?")[0], parts.path.strip("/"))
    if not host or not re.fullmatch(r"[\w.:-]+", host):
        raise SettingsError(
            msg("base_model is no web address"), fix=msg("use {examples}", examples=_EXAMPLES)
        )
    shown = address.partition("?")[0]
    secret = [name for name, _ in parse_qsl(parts.query) if name.lower() in _SECRET_PARTS]
    if secret or parts.username:
        raise SettingsError(
            msg(
                "base_model = {shown} has a password or token in its address, which would"
                " be written into settings and reports",
                shown=shown,
            ),
            fix=msg("for Civitai set CIVITAI_TOKEN; elsewhere download the file and name it"),
        )
    return BaseAddress(kind="web", location=address)

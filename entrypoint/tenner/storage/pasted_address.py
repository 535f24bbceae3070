"""The address of a folder, bucket or repo as the user wrote it, and what its errors call it.

Options follow a `?`: `endpoint_url`, `region`, `profile`, `addressing` (`path`, `virtual`) and
`links` (how long presigned links are valid: `12h`, `7d`) for S3; `public` and `revision` for the
Hub; `optional` (this one failing does not fail the run) for all.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, quote, unquote

from tenner.core.addresses import MASK, full_address, without_credentials
from tenner.core.errors import Problem
from tenner.core.messages import Message, msg
from tenner.core.secrets import redact_shapes
from tenner.storage.destination import Destination, Kind

_OPTIONS: dict[Kind, frozenset[str]] = {
    "s3": frozenset({"endpoint_url", "region", "profile", "addressing", "links", "optional"}),
    "hub": frozenset({"public", "revision", "optional"}),
    "folder": frozenset({"optional"}),
    "gs": frozenset({"optional"}),
    "azure": frozenset({"optional"}),
    "rclone": frozenset({"optional"}),
}


@dataclass(frozen=True, kw_only=True)
class PastedAddress:
    """`text` is the address without credentials; `named` makes of an address the words that an
    error begins with, such as `destination s3://a` or `base_model = s3://a`."""

    text: str
    named: Callable[[str], Message]

    @classmethod
    def of(cls, text: str, named: Callable[[str], Message]) -> "PastedAddress":
        """Of what the user wrote. Credentials in an address are not used: nothing reads them."""
        clean = without_credentials(full_address(text).strip().strip("\"'"))
        return cls(text=clean, named=named)

    @property
    def title(self) -> Message:
        """How an error names it, without a password or signature."""
        return self.named(re.sub(r"^[^/@\s]+@", f"{MASK}@", redact_shapes(self.text)))

    def options(self, kind: Kind, query: str) -> tuple[dict[str, str], list[Problem]]:
        """The options in `query`, and a problem for each that an address of this kind lacks."""
        options = dict(parse_qsl(query, keep_blank_values=True))
        unknown = sorted(set(options) - _OPTIONS[kind])
        problems = [
            Problem(
                text=msg("{address}: unknown option {name}", address=self.title, name=repr(name)),
                fix=msg("use one of {options}", options=", ".join(sorted(_OPTIONS[kind]))),
            )
            for name in unknown
        ]
        for switch in ("optional", "public"):
            if options.get(switch, "").lower() in {"0", "false", "no"}:
                options.pop(switch, None)
        return options, problems

    def path_problems(self, path: str) -> list[Problem]:
        """What is wrong with the path in the bucket, repo or remote."""
        if ".." not in PurePosixPath(path).parts and not any(ord(sign) < 32 for sign in path):
            return []
        text = msg("{address} has '..' or a control character in its path", address=self.title)
        return [Problem(text=text, fix=msg("name the folder directly"))]

    def with_note(self, destination: Destination) -> Destination:
        """`destination` with a note of what was corrected: all that differs from what was pasted,
        options aside."""
        if f"{MASK}@" in self.text:
            note = msg(
                "{address}: the user and password in it are not used; set AWS_* or HF_TOKEN",
                address=self.title,
            )
            return replace(destination, notes=(note,))
        plain = unquote(self.text.partition("?")[0]).rstrip("/")
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
            "{address} is read as {destination}{extra}",
            address=self.title,
            destination=destination,
            extra=extra,
        )
        return replace(destination, notes=(note,))

"""Fetching a base model into the cache, by the kind of its address."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tenner.base.source.address import BaseAddress
from tenner.base.source.cache import FetchedBase, Fetching
from tenner.base.source.from_web import fetch_from_web
from tenner.core.errors import SettingsError
from tenner.core.secrets import Secrets
from tenner.storage.http import OnBytes


def fetch_base(
    address: BaseAddress,
    *,
    cache: Path,
    secrets: Secrets,
    environ: Mapping[str, str],
    on_bytes: OnBytes | None = None,
    sha256: str = "",
) -> FetchedBase:
    """The base at `address`, fetched into the folder `cache` where it is not there yet.

    `sha256` is what a single file must have. Raises SettingsError with the reasons it failed.
    """
    task = Fetching(
        cache=cache, secrets=secrets, environ=environ, on_bytes=on_bytes, sha256=sha256.lower()
    )
    try:
        return _fetch(address, task)
    except SettingsError as error:  # servers repeat what they were sent
        problems = [
            replace(each, text=secrets.redact(each.text), fix=secrets.redact(each.fix))
            for each in error.problems
        ]
        raise SettingsError(problems=problems) from None


def _fetch(address: BaseAddress, task: Fetching) -> FetchedBase:
    match address.kind:
        case "hub":
            from tenner.base.source.from_hub import fetch_from_hub

            return fetch_from_hub(address, task)
        case "s3" | "gs" | "azure" | "rclone":
            from tenner.base.source.from_store import fetch_from_store

            return fetch_from_store(address, task)
        case "web":
            return fetch_from_web(address, task)

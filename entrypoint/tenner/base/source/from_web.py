"""A base model at a URL: one file, with the user's token where it is Civitai's."""

from pathlib import Path

from tenner.base.source.address import BaseAddress
from tenner.base.source.cache import (
    FetchedBase,
    Fetching,
    check_sha256,
    download_kind,
    fetch_weights,
    key_of,
)
from tenner.core.addresses import full_address
from tenner.core.messages import msg
from tenner.storage.http import DownloadKind


def fetch_from_web(address: BaseAddress, task: Fetching) -> FetchedBase:
    """The file at the address. Raises SettingsError."""
    target = web_target(address, task)
    fetch_weights(address, target, address.location, task, web_file(address, task))
    check_sha256(target, task.sha256, address)
    return FetchedBase(path=target)


def web_target(address: BaseAddress, task: Fetching) -> Path:
    """The file's path in the cache."""
    name = Path(address.location.partition("?")[0]).name
    name = name if name.endswith(".safetensors") else f"{name or 'model'}.safetensors"
    return task.cache / "web" / key_of(full_address(address.location)) / name[-120:]


def web_file(address: BaseAddress, task: Fetching) -> DownloadKind:
    """How the file is downloaded: with the user's token where the server is Civitai's."""
    host = address.location.split("/")[2].rpartition("@")[2].partition(":")[0]
    token = task.secrets.get("CIVITAI_TOKEN") if host.endswith("civitai.com") else None
    return download_kind(
        task.cache,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        denied_fix=msg("for Civitai set CIVITAI_TOKEN; elsewhere download the file and name it"),
    )

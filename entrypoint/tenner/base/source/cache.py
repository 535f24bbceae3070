"""The cache of base models: interrupted downloads are resumed, complete ones are verified.

What is complete is noted in `complete.json` beside it and not requested again where its revision
is fixed; where it is not, the server is asked for its version, and the cached one is used when
it does not answer.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tenner.base.source.address import BaseAddress
from tenner.core.checksums import hash_file
from tenner.core.errors import Problem, SettingsError
from tenner.core.files import write_json
from tenner.core.messages import Message, msg, redacted
from tenner.core.safetensors_head import read_safetensors_header, refuse_beginning
from tenner.core.secrets import Secrets
from tenner.core.sizes import size_words
from tenner.storage.http import DownloadKind, OnBytes, download

MAX_BYTES = 32 * 1024**3
"""SDXL in float32 has 14 GB; more than twice that is no base model of these families."""
_COMPLETE = "complete.json"


@dataclass(frozen=True, kw_only=True)
class FetchedBase:
    """A base model that is here now, a file or a folder. `hub_id` and `licence` where known.

    With `is_whole` off the files have their heads and sizes alone, and holes for weights; `sha256`
    is then what the source states of a single file, empty where it states none.
    """

    path: Path
    hub_id: str = ""
    licence: str = ""
    is_whole: bool = True
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Fetching:
    """What every source needs: the cache, credentials, the progress callback, the expected hash."""

    cache: Path
    secrets: Secrets
    environ: Mapping[str, str]
    on_bytes: OnBytes | None = None
    sha256: str = ""


def download_kind(
    cache: Path, *, headers: Mapping[str, str], denied_fix: Message, weights: bool = True
) -> DownloadKind:
    """Errors of a base's download, and the check of its first bytes where it is `weights`."""

    def inspect(beginning: bytes, length: int | None) -> None:
        if weights:
            refuse_beginning(beginning)
        refuse_full_disk(cache, length or 0)

    return DownloadKind(
        error=SettingsError,
        content=msg("a model"),
        too_large=msg("the base model is larger than"),
        too_large_fix=msg("name a checkpoint of Stable Diffusion 1.x, 2.x or XL"),
        denied_fix=denied_fix,
        page_fix=msg(
            "give the link of the file itself: on Hugging Face it has /resolve/ in it, on"
            " Civitai it is that of the Download button"
        ),
        headers=headers,
        inspect=inspect,
    )


def fetch_weights(
    address: BaseAddress, target: Path, url: str, task: Fetching, kind: DownloadKind
) -> None:
    """Download weights to `target`; a file that is no safetensors is removed. Raises
    SettingsError."""
    try:
        download(url, target, max_bytes=MAX_BYTES, on_bytes=task.on_bytes, kind=kind)
        if target.suffix == ".safetensors":
            read_safetensors_header(target)
    except SettingsError as error:
        if target.is_file():
            target.unlink()
        raise named(error, address, target) from error


def refuse_full_disk(cache: Path, num_bytes: int) -> None:
    """Raise SettingsError where `num_bytes` more do not fit into the cache's disk."""
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if num_bytes > free:
        raise SettingsError(
            msg(
                "the base model has {size}, but {size2} are free in {cache}",
                size=size_words(num_bytes),
                size2=size_words(free),
                cache=cache,
            ),
            fix=msg("free space there, or set TENNER_CACHE_DIR to a folder on a larger disk"),
        )


def check_sha256(path: Path, expected: str, address: BaseAddress) -> None:
    """Raise SettingsError, and remove the file, where its SHA-256 is not the expected one."""
    if not expected:
        return
    found = hash_file(path)[1]
    if found != expected.removeprefix("sha256:"):
        path.unlink()
        raise SettingsError(
            msg(
                "{address} is not the expected file: its SHA-256 is {found}",
                address=address,
                found=found,
            ),
            fix=msg("fetch it again, or correct base_model_sha256"),
        )


def key_of(text: str) -> str:
    """A short name for a source's folder in the cache."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def note_complete(folder: Path, files: Mapping[str, int], facts: Mapping[str, str]) -> None:
    """Note that all `files` (sizes by name) of a base are in `folder`, verified."""
    write_json(folder / _COMPLETE, {"files": dict(files), **facts})


def complete_facts(folder: Path) -> dict[str, Any] | None:
    """What was noted, where every file is still there with its size."""
    try:
        noted = cast("dict[str, Any]", json.loads((folder / _COMPLETE).read_text("utf-8")))
        files = cast("dict[str, int]", noted["files"])
        whole = all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return None
    return noted if whole and files else None


def named(error: SettingsError, address: BaseAddress, target: Path) -> SettingsError:
    """The problems with the address in place of the path in the cache."""
    problems: list[Problem] = []
    for problem in error.problems:
        text = redacted(problem.text, lambda text: text.replace(str(target), str(address)))
        text = (
            text
            if str(address) in text
            else msg("base_model = {address}: {text}", address=address, text=text)
        )
        problems.append(replace(problem, text=text))
    return SettingsError(problems=problems)

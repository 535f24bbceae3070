"""States: all that is needed to resume from a step, written whole or not at all.

A state is a folder `step-00000020` with `state.json` (progress, the job's fingerprint, the digest
of `state.pt`) and `state.pt` (weights, optimizer). It is made under another name, synced and
renamed, so a folder of that name is complete; the digest detects later damage.
"""
# pyright: reportUnknownMemberType=false

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from tenner.core.files import sync_directory
from tenner.core.messages import msg
from tenner.core.run_dir import STATE_MARK
from tenner.core.temporary_files import part_of

_FORMAT = 1


class BrokenStateError(Exception):
    """The state cannot be used; the one before may."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is: steps done, and the sum and number of the current epoch's losses."""

    step: int = 0
    epoch_loss_sum: float = 0.0
    epoch_loss_count: int = 0


def save_state(folder: Path, progress: Progress, tensors: dict[str, Any], fingerprint: str) -> Path:
    """Write a state into `folder` and return its path.

    Raises OSError, or RuntimeError where torch cannot write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{progress.step:08d}"
    making = part_of(final)
    making.mkdir(mode=0o700)
    try:
        torch.save(tensors, making / "state.pt")
        about = {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "sha256": _digest(making / "state.pt"),
            "step": progress.step,
            "epoch_loss_sum": progress.epoch_loss_sum,
            "epoch_loss_count": progress.epoch_loss_count,
        }
        (making / STATE_MARK).write_text(json.dumps(about, indent=1), encoding="utf-8")
        for file in making.iterdir():
            _sync(file)
        making.chmod(0o755)
        if final.exists():
            shutil.rmtree(final)
        making.rename(final)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    sync_directory(folder)
    return final


def load_state(path: Path, fingerprint: str) -> tuple[Progress, dict[str, Any]]:
    """What `save_state` wrote. Raises BrokenStateError: damaged, or of another job."""
    try:
        about = cast("dict[str, Any]", json.loads((path / STATE_MARK).read_text("utf-8")))
        if about["format"] != _FORMAT:
            raise BrokenStateError(msg("the state {name} is of another version", name=path.name))
        if about["fingerprint"] != fingerprint:
            raise BrokenStateError(
                msg("the state {name} is of another network or optimizer", name=path.name)
            )
        if _digest(path / "state.pt") != about["sha256"]:
            raise BrokenStateError(msg("the state {name} is damaged", name=path.name))
        tensors = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        progress = Progress(
            step=int(about["step"]),
            epoch_loss_sum=float(about["epoch_loss_sum"]),
            epoch_loss_count=int(about["epoch_loss_count"]),
        )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise BrokenStateError(
            msg("the state {name} cannot be read: {error}", name=path.name, error=error)
        ) from error
    return progress, cast("dict[str, Any]", tensors)


def drop_old_states(folder: Path, num_kept: int) -> None:
    """Remove all but the newest `num_kept` states."""
    states = sorted(path for path in folder.glob("step-*") if path.is_dir())
    for path in states[: max(0, len(states) - max(1, num_kept))]:
        shutil.rmtree(path, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

"""Files to deliver, and single files and states at a destination, as tests put them there."""

import os
from pathlib import Path

from tenner.core.checksums import DeliveredFile
from tenner.runs.remote_run import RemoteRun, Shipment
from tenner.runs.remote_state import RemoteState


def put_checkpoint(
    run: RemoteRun, path: Path, name: str = "", *, limit_seconds: float | None = None
) -> str:
    """Send a weights file, by default as `checkpoints/<its name>`; returns its name there."""
    file = DeliveredFile(path=path, name=name or f"checkpoints/{path.name}")
    run.put_set(Shipment(files=(file,)), limit_seconds=limit_seconds)
    return file.name


def put_state(
    run: RemoteRun, folder: Path, step: int, *, limit_seconds: float | None = None
) -> RemoteState:
    """Send every file in `folder` as the state of `step`, which has to be readable there."""
    sent = run.put_set(Shipment(state=(folder, step)), limit_seconds=limit_seconds)
    assert sent is not None
    return sent


def files_to_deliver(folder: Path, *, largest: int) -> list[DeliveredFile]:
    """A large file of so many bytes, a small one with a name in Arabic, and an empty one."""
    made: list[DeliveredFile] = []
    for name, size in (("cat.safetensors", largest), ("notes/قطة.txt", 12), ("empty", 0)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        made.append(DeliveredFile(path=path, name=name))
    return made

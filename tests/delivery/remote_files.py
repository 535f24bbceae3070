"""Single files and states at a destination, as tests put them there."""

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

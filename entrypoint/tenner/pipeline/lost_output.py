"""Whether a run's result would be lost with the container, reported before the training."""

from collections.abc import Sequence
from pathlib import Path

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.hardware.mounts import Lost, Mount, lost_with_container, mount_of, read_mounts
from tenner.hosts.host import Host
from tenner.settings import Settings
from tenner.storage.destination import Destination

VOLUME = Path("/workspace")
"""Where RunPod and the shipped templates mount the persistent volume."""


def lost_output(
    settings: Settings,
    destinations: Sequence[Destination],
    host: Host | None,
    mounts: Sequence[Mount] | None = None,
) -> tuple[Problem, ...]:
    """A warning where nothing of the run would outlive the container. `mounts` are the process's
    own unless they are given."""
    mounts = read_mounts() if mounts is None else mounts
    output = Path(settings.output_dir).expanduser().absolute()
    folders = [Path(each.root) for each in destinations if each.kind == "folder"]
    if len(folders) < len(destinations):
        return ()
    ways: list[Lost | None] = [
        lost_with_container(each.absolute(), mounts) for each in (*folders, output)
    ]
    if None in ways:
        return ()
    return (_warning(output, ways[-1], host, has_volume=_has_volume(mounts)),)


def _warning(output: Path, lost: Lost | None, host: Host | None, *, has_volume: bool) -> Problem:
    elsewhere = msg("set destinations (s3://…, hf://…)")
    fix = msg(
        'mount a folder there (docker run -v "$PWD":{volume}), or {elsewhere}',
        volume=VOLUME,
        elsewhere=elsewhere,
    )
    provider = host.provider if host else ""
    if provider == "runpod":
        where = msg("output_dir to a folder in {volume}, the pod's volume", volume=VOLUME)
        fix = (
            msg("set {where}", where=where)
            if has_volume
            else msg("give the pod a volume at {volume}", volume=VOLUME)
        )
        fix = msg("{fix}, or {elsewhere}", fix=fix, elsewhere=elsewhere)
    if lost == "memory":
        text = msg(
            "{output} is in memory: the LoRA is lost when this container ends", output=output
        )
    elif provider == "runpod":
        text = msg(
            "{output} is on the pod's container disk: the LoRA is lost when the pod is stopped",
            output=output,
        )
    elif provider == "vast":
        text = msg(
            "{output} is on this instance's own disk: the LoRA is lost when it is destroyed",
            output=output,
        )
        fix = msg("copy it before you destroy the instance, or {elsewhere}", elsewhere=elsewhere)
    else:
        text = msg(
            "{output} is in the container's own file system: the LoRA is lost when"
            " the container is removed (docker run --rm removes it at its end)",
            output=output,
        )
    return Problem(text=text, fix=fix, level="warning")


def _has_volume(mounts: Sequence[Mount]) -> bool:
    found = mount_of(VOLUME, mounts)
    return found is not None and found.point == VOLUME

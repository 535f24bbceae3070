"""Whether this is a container, and whether a folder is lost with it.

Files outside of a container's mounts are in its own layer, which is removed with it.
The kernel lists mounts in /proc/self/mountinfo (proc_pid_mountinfo(5)).
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Lost = Literal["layer", "memory"]
"""Why files are lost with a container: they are in its own layer, or in memory."""
_LAYERS = ("overlay", "aufs", "fuse.fuse-overlayfs", "fuse-overlayfs")
_MEMORY = ("tmpfs", "ramfs")
_SNAPSHOT = re.compile(r"docker|containers?/|containerd|cri-o")
"""In the root or the source of `/` where an engine stores layers as subvolumes (btrfs, zfs)."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A mounted file system. `root` is the part of it that is seen at `point`."""

    point: Path
    kind: str
    source: str
    root: str


def in_container(environ: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Whether this program runs in a container, as engines and Kubernetes mark it."""
    marks = (root / ".dockerenv", root / "run" / ".containerenv")
    return "KUBERNETES_SERVICE_HOST" in environ or any(each.exists() for each in marks)


def read_mounts(root: Path = Path("/")) -> tuple[Mount, ...]:
    """All mounts of this process, those that cover others last; none where they are not known."""
    try:
        text = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ()
    return parse_mounts(text)


def parse_mounts(mountinfo: str) -> tuple[Mount, ...]:
    """The mounts in the text of a `mountinfo`; other lines are ignored."""
    found: list[Mount] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        seen, device = before.split(), after.split()
        if len(seen) < 5 or len(device) < 2:
            continue
        point = Path(_unescaped(seen[4]))
        found.append(Mount(point=point, kind=device[0], source=device[1], root=seen[3]))
    return tuple(found)


def mount_of(path: Path, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that holds `path`, which must be absolute and need not exist."""
    found: Mount | None = None
    for each in mounts:
        inside = path == each.point or each.point in path.parents
        if inside and (found is None or len(each.point.parts) >= len(found.point.parts)):
            found = each
    return found


def lost_with_container(path: Path, mounts: Sequence[Mount]) -> Lost | None:
    """How `path` is lost at the container's end; None where it stays, or this is no container."""
    top = mount_of(Path("/"), mounts)
    if top is None or not _is_layer(top):
        return None
    here = mount_of(Path(os.path.realpath(path)), mounts)
    if here is None:
        return None
    if here.kind in _MEMORY:
        return "memory"
    return "layer" if here.point == Path("/") else None


def _is_layer(mount: Mount) -> bool:
    named = f"{mount.root} {mount.source}"
    return mount.kind in _LAYERS or _SNAPSHOT.search(named) is not None


def _unescaped(text: str) -> str:
    """Blanks and backslashes are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)

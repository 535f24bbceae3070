"""An output folder that goes with the container is found by its mounts, and reported."""

import os
from pathlib import Path

import pytest

from tenner.core.secrets import NO_SECRETS
from tenner.hardware.mounts import lost_with_container, parse_mounts
from tenner.hosts import find_host
from tenner.pipeline.lost_output import lost_output
from tenner.settings.model import Settings
from tenner.storage.destination_address import parse_destinations

OVERLAY = "600 500 0:59 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/var/lib/docker/x"
MOUNTS = "\n".join(
    (
        OVERLAY,
        "601 600 0:62 / /proc rw - proc proc rw",
        "602 600 0:63 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k",
        "603 600 0:64 / /tmp rw - tmpfs tmpfs rw",
        "604 600 254:0 /home/me/my\\040photos /workspace rw,relatime - ext4 /dev/vda1 rw",
        "605 604 0:70 / /workspace/scratch rw - tmpfs tmpfs rw",
        "606 600 254:0 /var/lib/docker/containers/ab/hostname /etc/hostname rw - ext4 /dev/vda1 rw",
    )
)
PLAIN = MOUNTS.replace(OVERLAY, "600 500 254:0 / / rw,relatime - ext4 /dev/vda1 rw")
VOLUMELESS = "\n".join(line for line in MOUNTS.splitlines() if "/workspace" not in line)
RUNPOD = {"RUNPOD_POD_ID": "abc"}
VAST = {"CONTAINER_ID": "4711", "VAST_CONTAINERLABEL": "C.4711"}


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        ("/workspace/output", None),
        ("/workspace", None),
        ("/workspacer", "layer"),
        ("/results", "layer"),
        ("/tmp/out", "memory"),
        ("/workspace/scratch/out", "memory"),
    ],
)
def test_what_goes_with_the_container(path: str, lost: str | None) -> None:
    assert lost_with_container(Path(path), parse_mounts(MOUNTS)) == lost
    assert lost_with_container(Path(path), parse_mounts(PLAIN)) is None, "no container"


@pytest.mark.parametrize(
    "top",
    [
        "30 1 0:25 /docker/btrfs/subvolumes/0ff / rw - btrfs /dev/vda rw",
        "30 1 0:25 / / rw - zfs pool/docker/0ff rw",
        "30 1 0:25 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw",
    ],
)
def test_layers_of_other_storage_drivers(top: str) -> None:
    assert lost_with_container(Path("/results"), parse_mounts(top)) == "layer"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/workspace")
    real = Path(os.path.realpath(tmp_path))
    mounts = parse_mounts(f"{MOUNTS}\n700 600 254:0 /x {real} rw - ext4 /dev/vda1 rw")
    assert lost_with_container(tmp_path / "link" / "out", mounts) is None
    (tmp_path / "other").symlink_to("/results")
    assert lost_with_container(tmp_path / "other" / "out", mounts) == "layer"


def output(output: str, *destinations: str, environ: dict[str, str], mounts: str = MOUNTS) -> str:
    host = find_host(environ, NO_SECRETS)
    found, wrong = parse_destinations(destinations)
    assert not wrong
    settings = Settings(output_dir=output)
    return "\n".join(map(str, lost_output(settings, found, host, parse_mounts(mounts))))


def test_it_is_reported_with_what_to_do_unless_the_result_goes_elsewhere() -> None:
    plain = output("/results", environ={})
    assert "/results is in the container's own file system" in plain
    assert 'docker run -v "$PWD":/workspace' in plain
    assert "in memory" in output("/tmp/out", environ={})
    assert output("/workspace/output", environ={}) == ""
    assert output("/results", "s3://bucket/loras", environ={}) == ""
    assert output("/results", "file:///workspace/loras", environ={}) == ""
    assert "/results is" in output("/results", "file:///loras", environ={})


def test_rented_machines_have_their_own_words() -> None:
    pod = output("/results", environ=RUNPOD)
    assert "lost when the pod is stopped" in pod
    assert "output_dir to a folder in /workspace, the pod's volume" in pod
    assert "give the pod a volume" in output("/workspace/output", environ=RUNPOD, mounts=VOLUMELESS)
    instance = output("/workspace/output", environ=VAST, mounts=VOLUMELESS)
    assert "lost when it is destroyed" in instance
    assert "docker run" not in instance

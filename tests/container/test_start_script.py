"""docker/start.sh: which program runs, as whom, and what is reported where the image is not
whole."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

START = Path(__file__).resolve().parents[2] / "docker" / "start.sh"
PYTHON = """#!/bin/sh
echo "python $(id -u) $*"
[ "$4" = sleep ] && exec sleep 60
exit 0
"""


@pytest.fixture
def opt(tmp_path: Path) -> Path:
    """What the image has in /opt, as far as the script looks at it."""
    for name in ("tenner/bin/python", "trainer/bin/python"):
        path = tmp_path / "opt" / name
        path.parent.mkdir(parents=True)
        path.write_text(PYTHON)
        path.chmod(0o755)
    for name in ("tenner-app/tenner/__init__.py", "sd-scripts/train_network.py"):
        (tmp_path / "opt" / name).parent.mkdir(parents=True)
        (tmp_path / "opt" / name).touch()
    return tmp_path / "opt"


@pytest.fixture
def mounted(opt: Path) -> tuple[str, ...]:
    """What starts a program that sees `opt` as /opt, and no other change."""
    root = () if os.geteuid() == 0 else ("--map-root-user",)
    before = ("unshare", *root, "--mount", "sh", "-c", f'mount --bind "{opt}" /opt && exec "$@"')
    if subprocess.run([*before, "sh", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount; tests/image runs the same in containers")
    return (*before, "sh")


def environment(**more: str) -> dict[str, str]:
    image = {
        "SD_SCRIPTS_DIR": "/opt/sd-scripts",
        "TENNER_TRAINER_PYTHON": "/opt/trainer/bin/python",
    }
    return {**os.environ, **image, **more}


def start(
    *words: str, before: tuple[str, ...] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, "bash", START, *words],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_another_program_starts_as_the_container_does_with_its_exit_code() -> None:
    done = start("bash", "-c", "id -u; exit 7", PUID="1234", TENNER_OUTPUT_DIR="/tmp")
    assert (done.stdout.strip(), done.returncode) == (str(os.geteuid()), 7)


@pytest.mark.parametrize(
    ("words", "passed_on"),
    [
        (("train", "--output_dir", "my out"), "train --output_dir my out"),
        (("tenner", "train"), "train"),
        (("--help",), "--help"),
        ((), ""),
    ],
)
def test_words_of_ours_go_to_tenner_which_settles_the_user(
    mounted: tuple[str, ...], words: tuple[str, ...], passed_on: str
) -> None:
    done = start(*words, before=mounted)
    assert done.stdout.strip() == f"python 0 -P -m tenner.cli.start {passed_on}".strip()


@pytest.mark.parametrize("hidden", ["tenner", "tenner-app", "trainer", "sd-scripts"])
def test_a_volume_that_hides_a_part_of_the_image_is_named(
    mounted: tuple[str, ...], opt: Path, tmp_path: Path, hidden: str
) -> None:
    (tmp_path / "volume").mkdir()
    cover = f'mount --bind "{tmp_path / "volume"}" /opt/{hidden} && exec "$@"'
    done = start("train", before=(*mounted, "sh", "-c", cover, "sh"))
    assert done.returncode == 2
    assert f"/opt/{hidden}" in done.stderr
    assert f"hidden by what is mounted at /opt/{hidden}" in done.stderr
    assert "fix: mount it elsewhere" in done.stderr


def test_a_volume_at_opt_itself_is_named(mounted: tuple[str, ...], opt: Path) -> None:
    for each in opt.iterdir():
        each.rename(opt.parent / each.name)
    done = start("train", before=mounted)
    assert done.returncode == 2
    assert "hidden by what is mounted at /opt\n" in done.stderr


@pytest.fixture
def early() -> Iterator[subprocess.Popen[str]]:
    """tenner as it starts, held where it imports what takes longest."""
    code = (
        "import sys, time; from tenner.core.early_stop import report_sigterm; report_sigterm();"
        "print('here', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_a_stop_while_it_starts_prints_a_line(early: subprocess.Popen[str]) -> None:
    assert early.stdout is not None
    assert early.stdout.readline() == "here\n"
    early.send_signal(signal.SIGTERM)
    _, text = early.communicate(timeout=60)
    assert text == "stopped by SIGTERM\n"
    assert early.returncode == -signal.SIGTERM

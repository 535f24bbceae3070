"""A run on a terminal, as a terminal shows it: the program writes to a pseudo-terminal, and what
it wrote is drawn by a terminal emulator."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pyte
import pytest

from tenner.base.tiny import concept_dir

EVENTS = """
from tenner.core.errors import Problem
from tenner.core.events import Checkpoint, Drew, EpochEnd, Phase, Sent, Step
from tenner.ui.screen import make_screen

screen = make_screen(price_per_hour=0.5, has_times=True)
with screen:
    screen.say("  steps: 400 (as set)")
    screen.show_address("page", "http://127.0.0.1:8321/?token=" + "t" * 32)
    screen.show(Phase(name="loading", detail="the base model"))
    for step in range(1, 401):
        screen.show(Step(
            step=step, num_steps=400, epoch=1 + (step - 1) // 10, num_epochs=40, loss=0.1,
            loss_avg=0.1, images_per_second=4, seconds_per_step=0.01,
        ))
        if step % 10 == 0:
            epoch = step // 10
            screen.show(EpochEnd(epoch=epoch, num_epochs=40, loss_avg=0.1))
            path = f"/runs/dog/{step:08d}.safetensors"
            screen.show(Checkpoint(path=path, step=step, epoch=epoch))
            to = "s3://loras/dog"
            screen.show(
                Sent(what="checkpoint", step=step, destination=to, num_bytes=1, seconds=1)
            )
            path = "/runs/" + "a-long-name/" * 8 + f"{epoch}.png"
            screen.show(Drew(path=path, epoch=epoch, step=step))
        if step == 200:
            screen.problem(Problem(text="the card is hot", fix="open a window", level="warning"))
"""


def written(words: list[str], columns: int, cwd: Path, timeout: float = 60) -> bytes:
    """What a program writes to a terminal of so many columns, until it ends well."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = {k: v for k, v in os.environ.items() if not k.startswith("TENNER_")}
    environ |= {"TERM": "xterm-256color"}
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"):
        environ.pop(name, None)
    process = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=environ
    )
    os.close(theirs)
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the last program has closed it
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(ours)
    assert process.wait(timeout) == 0, b"".join(chunks)[-2000:]
    return b"".join(chunks)


def shown(output: bytes, columns: int) -> list[str]:
    """The lines that a terminal shows in the end, what was scrolled away first."""
    screen = pyte.HistoryScreen(columns, 40, history=10_000, ratio=1)
    pyte.ByteStream(screen).feed(output)
    above = ["".join(line[column].data for column in range(columns)) for line in screen.history.top]
    return [line.rstrip() for line in (*above, *screen.display) if line.strip()]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_run_is_one_calm_screen(tmp_path: Path, columns: int) -> None:
    output = written([sys.executable, "-c", EVENTS], columns, tmp_path)
    lines = shown(output, columns)
    text = "\n".join(lines)
    assert len(lines) < 20, text
    assert text.count("ended, mean loss") == 1, "an epoch changes a row and adds none"
    assert text.count("step 400/400") == 1
    assert text.count("━") > 10
    assert text.count("warning: the card is hot") == 1
    assert text.index("the card is hot") < text.index("step 400/400"), "problems stand above"
    unwrapped = "".join(line.strip() for line in lines)
    assert "/runs/" + "a-long-name/" * 8 + "40.png" in unwrapped, "the newest sample, whole"
    assert "/39.png" not in unwrapped
    assert "http://127.0.0.1:8321/?token=" + "t" * 32 in unwrapped
    assert b"\x1b]8;" in output, "the path can be clicked"
    assert b"\x1b[?25h" in output, "the cursor is there again"


def test_without_a_terminal_there_are_plain_lines(tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    done = subprocess.run(
        [sys.executable, "-c", EVENTS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ,
        timeout=60,
        check=True,
    )
    assert "\x1b" not in done.stderr
    assert done.stderr.count("ended, mean loss") == 40
    assert f"the page: http://127.0.0.1:8321/?token={'t' * 32}\n" in done.stderr


@pytest.mark.long
def test_a_real_run_ends_with_its_samples_and_its_page(tmp_path: Path) -> None:
    words = (
        *("train", str(concept_dir()), "--base_model", "tiny", "--resolution", "64"),
        *("--min_bucket_reso", "64", "--max_train_steps", "4", "--network_dim", "4"),
        *("--output_name", "star", "--sample_prompts", "a star", "--sample_steps", "2"),
        *("--sample_at_epochs", "1", "--save_every_n_epochs", "1", "--max_bucket_reso", "64"),
    )
    output = written([sys.executable, "-m", "tenner", *words], 120, tmp_path, timeout=200)
    unwrapped = "".join(line.strip() for line in shown(output, 120))
    assert f"{Path('output/star/samples/grid.png')}" in unwrapped
    assert f"{Path('output/star/report.html')}" in unwrapped
    assert unwrapped.count("ended, mean loss") == 1
    assert "delivered and verified" in unwrapped

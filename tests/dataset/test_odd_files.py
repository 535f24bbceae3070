"""Folders and files of a dataset that are odd: linked, closed, zeroed, moving, left out."""

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import write_set
from PIL import Image

from tenner.dataset import DatasetRequest
from tenner.dataset.decode import inspect
from tenner.dataset.facts import ImageFacts, Unreadable
from tenner.dataset.inspection import read_sources
from tenner.dataset.judge_captions import _near_miss  # pyright: ignore[reportPrivateUsage]
from tenner.dataset.listing import list_files

ONSTART = Path(__file__).parents[2] / "configs" / "vast" / "onstart.sh"


def request(tmp_path: Path) -> DatasetRequest:
    return DatasetRequest(source=str(tmp_path / "set"), cache_dir=tmp_path / "cache", num_workers=1)


def test_a_linked_concept_is_read(tmp_path: Path) -> None:
    write_set(tmp_path / "real", 3)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "10_cat").symlink_to("../real")
    (source,) = read_sources(request(tmp_path))
    assert len(source.images) == 3
    assert {image.num_repeats for image in source.images} == {10}
    assert source.num_captions == 3


def test_links_that_lead_around_end(tmp_path: Path) -> None:
    one, other = tmp_path / "set" / "1_one", tmp_path / "set" / "2_other"
    write_set(one, 1)
    write_set(other, 1)
    (one / "to_other").symlink_to(other)
    (other / "to_one").symlink_to(one)
    (one / "up").symlink_to("..")
    (one / "far_up").symlink_to("../../..")
    (one / "self").symlink_to(".")
    found = list_files(tmp_path / "set")
    around = {entry.path for entry in found if entry.why == "a link to a folder that contains it"}
    assert {"1_one/up", "1_one/far_up", "1_one/self", "1_one/to_other/to_one"} <= around
    assert all(entry.path.count("/") <= 3 for entry in found)


@pytest.mark.parametrize("what", ["10_cat", "10_cat/img000.png"])
def test_what_is_closed_to_this_user_is_an_error(tmp_path: Path, what: str) -> None:
    """A folder that may not be looked into ends the check; a picture is said to be closed."""
    folder = tmp_path / "set"
    write_set(folder / "10_cat", 1)
    write_set(folder / "10_dog", 3)
    closed = folder / what
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:
        os.chown(closed, 65534, 65534)
        before = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    closed.chmod(0)
    words = ("check", str(folder), "--base_model", "tiny", "--resolution", "64")
    try:
        ended = subprocess.run(
            [*before, sys.executable, "-m", "tenner", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    finally:
        closed.chmod(0o755)
    output = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 3, output
    assert "damaged" not in output
    assert what in output
    assert "Permission denied" in output


@pytest.mark.parametrize("saved", [0.5, 0.9])
def test_a_jpeg_that_ends_in_zeros_is_cut(tmp_path: Path, saved: float) -> None:
    chance = random.Random(3)
    picture = Image.frombytes("RGB", (200, 200), chance.randbytes(120_000))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    data = out.getvalue()
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(len(data) * saved)].ljust(len(data), b"\0"))
    found = inspect(path, training_area=64 * 64, alone=True)
    assert isinstance(found, Unreadable)
    assert "zeros" in found.reason


@pytest.mark.parametrize("optimize", [False, True])
def test_a_flat_jpeg_and_one_with_zeros_behind_its_end_are_whole(
    tmp_path: Path, optimize: bool
) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (2048, 2048)).save(path, optimize=optimize)
    assert isinstance(inspect(path, training_area=64 * 64, alone=True), ImageFacts)
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert isinstance(inspect(path, training_area=64 * 64, alone=True), ImageFacts)


def test_moving_pictures_are_reported(tmp_path: Path) -> None:
    write_set(tmp_path / "set" / "1_cat", 2)
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green")]
    moving = tmp_path / "set" / "1_cat" / "moving.gif"
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    (source,) = read_sources(request(tmp_path))
    (found,) = (each for each in source.findings if each.kind == "animated")
    assert "1 image with several frames" in found.text
    assert "moving.gif" in found.text


def test_a_caption_of_a_file_that_is_left_out_has_no_second_message(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "1_cat"
    write_set(folder, 2)
    (folder / "drawing.psd").write_bytes(b"8BPS")
    (folder / "drawing.txt").write_text("a drawing")
    (folder / "alone.txt").write_text("nobody's")
    (source,) = read_sources(request(tmp_path))
    texts = [each.text for each in source.findings if each.kind == "left_out"]
    assert len(texts) == 2
    assert any("artwork" in text and "drawing.psd" in text for text in texts)
    assert any("without an image" in text and "alone.txt" in text for text in texts)
    assert not any("drawing.txt" in text for text in texts)


@pytest.mark.parametrize("text", ["a “Sks Dog” here", "„sks_dog“ runs", "«SKS dog»", "‘sksdog’"])
def test_a_suggested_trigger_has_no_quotes(text: str) -> None:
    found = _near_miss(text, "sks dog")
    assert found.strip("“”„«»‘’") == found != ""


def test_what_a_later_shell_reads_holds_no_key(tmp_path: Path) -> None:
    """Vast.ai's script, with its two places moved into a folder."""
    (tmp_path / "bin").mkdir()
    start = tmp_path / "bin" / "tenner-start"
    start.write_text("#!/bin/sh\n")
    start.chmod(0o755)
    script = ONSTART.read_text().replace("/etc/environment", f"{tmp_path}/environment")
    env = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "TENNER_DATASET": "https://host/photos.zip",
        "TENNER_REG_DATA_DIR": "https://me:secret1@host/photos.zip",
        "TENNER_BASE_MODEL": "https://host/m.safetensors?token=secret2",
        "TENNER_WEBHOOK": "https://hooks.example/secret3",
        "TENNER_WEBHOOK_FILE": "/run/secret4",
        "TENNER_SERVE_TOKEN": "secret5",
        "HF_TOKEN": "secret6",
    }
    script = script.replace("/workspace", str(tmp_path))
    subprocess.run(["bash", "-c", script], env=env, check=True, cwd=tmp_path)
    saved = (tmp_path / "environment").read_text()
    assert "TENNER_DATASET=https://host/photos.zip" in saved
    assert "PATH=" in saved
    assert "secret" not in saved

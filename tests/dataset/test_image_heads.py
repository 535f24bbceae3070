"""A plan reads the heads of images only: as decoding finds them, and says what it has not seen."""

import io
import json
import random
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile import hostile_bytes, originals
from pictures import picture
from PIL import Image, ImageFile

from tenner.base.tiny import concept_dir
from tenner.cli.check import run_check
from tenner.cli.plan import print_plan
from tenner.core.errors import DatasetError
from tenner.dataset import DatasetRequest, inspect_dataset
from tenner.dataset.decode import inspect
from tenner.dataset.facts import ImageFacts, Unreadable
from tenner.dataset.heads import head_of, read_heads
from tenner.dataset.inspection import ONLY_HEADS
from tenner.dataset.workers import WorkerPool
from tenner.settings import load_request

SEEN = ("num_bytes", "format", "mode", "width", "height", "num_frames")
NEEDS = ("upright", "format", "frames")
"""What of a picture its head tells, of those that must be corrected."""


def seen(facts: ImageFacts) -> dict[str, Any]:
    values = {name: getattr(facts, name) for name in SEEN}
    return values | {"needs": {each for each in facts.needs if each in NEEDS}}


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(behind: bytes = b"") -> bytes:
    """A PNG with a chunk behind its pixels."""
    out = io.BytesIO()
    picture(1, (64, 40)).save(out, "PNG")
    data = out.getvalue()
    return data[:-12] + behind + data[-12:]


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture(2, (64, 40)).save(out, kind, **options)
    return out.getvalue()


XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="8"/>'
FILES: dict[str, bytes] = {
    **{kind: saved(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")},
    "jpeg turned": saved("JPEG", exif=exif(6)),
    "webp turned": saved("WEBP", exif=exif(3)),
    "png turned": saved("PNG", exif=exif(6)),
    "png turned behind its pixels": png(chunk(b"eXIf", exif(8).tobytes()[6:])),
    "png with XMP behind its pixels": png(chunk(b"iTXt", XMP)),
    "png with text behind its pixels": png(chunk(b"tEXt", b"Comment\0nothing")),
    "gif of two frames": saved("GIF", save_all=True, append_images=[picture(3, (64, 40))]),
    "webp of two frames": saved("WEBP", save_all=True, append_images=[picture(3, (64, 40))]),
    "empty": b"",
    "a page": b"<!DOCTYPE html><p>Sign in",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "a jpeg that ends in zeros": saved("JPEG")[:700] + bytes(4000),
    "a pixel": (lambda out: (Image.new("RGB", (1, 1)).save(out, "PNG"), out.getvalue())[1])(
        io.BytesIO()
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_head_says_what_decoding_says(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(FILES[name])
    head, decoded = head_of(path, in_worker=True), inspect(path, training_area=64**2, alone=True)
    if isinstance(decoded, Unreadable):
        assert head == decoded
    else:
        assert isinstance(head, ImageFacts)
        assert seen(head) == seen(decoded)
        assert head.sha256 == ""


def test_the_turned_pictures_are_turned(tmp_path: Path) -> None:
    for name in ("jpeg turned", "png turned", "png turned behind its pixels"):
        path = tmp_path / "a.bin"
        path.write_bytes(FILES[name])
        head = head_of(path)
        assert isinstance(head, ImageFacts)
        assert (head.width, head.height) == (40, 64), name


def test_hostile_files_cost_only_themselves(tmp_path: Path) -> None:
    """What a head refuses decoding refuses; where both read it they agree about its size."""
    chance, whole = random.Random(11), originals()
    paths = [tmp_path / f"{index}.bin" for index in range(150)]
    for path in paths:
        path.write_bytes(hostile_bytes(chance, whole))
    with WorkerPool(1) as pool:
        heads = read_heads(paths, pool=pool, with_hash=False)
    refused = 0
    for path, head in zip(paths, heads, strict=True):
        decoded = inspect(path, training_area=64**2, alone=True)
        if isinstance(head, Unreadable):
            refused += 1
            assert isinstance(decoded, Unreadable), path
        elif isinstance(decoded, ImageFacts):
            assert (head.width, head.height) == (decoded.width, decoded.height), path
    assert 20 < refused < 140


def write_photos(folder: Path) -> Path:
    """Eight photos, two of which are the same file."""
    folder.mkdir(parents=True)
    for number in range(8):
        picture(number, (96, 64) if number % 3 else (64, 96)).save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"sks thing {number}", encoding="utf-8")
    (folder / "6.jpg").write_bytes((folder / "5.jpg").read_bytes())
    return folder


def request(folder: Path, **more: Any) -> DatasetRequest:
    buckets = {"min_bucket_reso": 64, "max_bucket_reso": 128, "bucket_reso_steps": 8}
    return DatasetRequest(source=str(folder), resolution=(64, 64), **buckets, num_workers=1, **more)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_steps_buckets_captions_and_doubles_are_those_of_the_training(
    share: float, tmp_path: Path
) -> None:
    decoding = request(write_photos(tmp_path / "set"), validation_split=share)
    decoded = inspect_dataset(decoding, tmp_path / "work")
    planned = inspect_dataset(replace(decoding, decodes=False), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert planned.images_by_bucket() == decoded.images_by_bucket()
    assert [each.source for each in planned.held_out] == [each.source for each in decoded.held_out]
    assert [(each.source, each.caption) for each in planned.images] == [
        (each.source, each.caption) for each in decoded.images
    ]
    kinds = [each.kind for each in planned.findings]
    assert kinds.count("only_heads") == 1
    assert "duplicate" in kinds
    by_pixels = {"near_duplicate", "blurred", "compressed", "dark", "bright"}
    assert [each for each in planned.findings if each.kind != "only_heads"] == [
        each for each in decoded.findings if each.kind not in by_pixels
    ]


def test_a_plan_decodes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def decode(*_: object) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    monkeypatch.setattr("tenner.dataset.workers._launch", decode)
    values = {"dataset": str(concept_dir()), "base_model": "tiny", "device": "cpu"}
    print_plan(load_request(values, {}, read_default_config=False), {}, as_json=True)


def test_a_damaged_body_is_found_by_check_and_train_and_plan_says_that_it_did_not_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_photos(tmp_path / "set")
    whole = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    values = {"dataset": str(folder), "base_model": "tiny", "device": "cpu", "resolution": "64"}
    asked = load_request(values, {}, read_default_config=False)
    print_plan(asked, {}, as_json=True)
    notices = json.loads(capsys.readouterr().out)["notices"]
    assert ONLY_HEADS.text in [each["text"] for each in notices]
    assert not [each for each in notices if "cannot be used" in each["text"]]
    run_check(asked, {}, as_json=True, strict=False, page=None)
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [each["files"] for each in found if each["kind"] == "unreadable"] == [["1.jpg"]]
    dataset = inspect_dataset(request(folder), tmp_path / "work")
    assert "1.jpg" not in [each.source for each in dataset.images]
    for name in ("2", "3", "4"):
        (folder / f"{name}.jpg").write_bytes(b"<html>")
    for decodes in (True, False):
        with pytest.raises(DatasetError, match="cannot be used"):
            inspect_dataset(request(folder, decodes=decodes), tmp_path / "other")

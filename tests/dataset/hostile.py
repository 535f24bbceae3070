"""Hostile inputs from a seed: cut, flipped and mislabelled pictures, odd names, deep trees."""

import io
import os
import random
from collections.abc import Callable
from pathlib import Path

from pictures import picture

WORDS = (
    "cat",
    "10_cat",
    "a b",
    "قطة",
    "猫",
    "é" * 40,
    "..hidden",
    "x" * 200,
    "-rf",
    "a\nb",
    "~",
    "%20",
)
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".avif", ".heic", ".txt"),
    *(".caption", ".mp4", ".npz", ".jsonl", ".csv", ".zip", "", ".PNG", ".png.txt"),
)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")


def originals() -> list[bytes]:
    """One small picture in each format."""
    made: list[bytes] = []
    for number, kind in enumerate(FORMATS):
        out = io.BytesIO()
        picture(number, (48, 40)).save(out, kind)
        made.append(out.getvalue())
    return made


def hostile_bytes(chance: random.Random, whole: list[bytes]) -> bytes:
    """A file that may be anything: mostly a picture that was tampered with."""
    data = bytearray(chance.choice(whole))
    spoil: list[Callable[[], bytes]] = [
        lambda: bytes(data),
        lambda: bytes(data[: chance.randrange(len(data))]),
        lambda: _flipped(data, chance, chance.choice((1, 3, 20))),
        lambda: bytes(data[: chance.randrange(4, 40)]) + chance.randbytes(chance.randrange(200)),
        lambda: _with_huge_numbers(data, chance),
        lambda: bytes(data) + chance.randbytes(chance.randrange(500)),
        lambda: chance.randbytes(chance.randrange(300)),
        lambda: b"",
        lambda: b"<!DOCTYPE html><p>Sign in",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        lambda: b'{"file_name": "../../etc/passwd", "text": "x"}\n' * 3,
        lambda: "a photo of sks, قطة 😀".encode(chance.choice(("utf-8", "utf-16", "utf-8-sig"))),
    ]
    return chance.choice(spoil)()


def _flipped(data: bytearray, chance: random.Random, count: int) -> bytes:
    for _ in range(count):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _with_huge_numbers(data: bytearray, chance: random.Random) -> bytes:
    """Four bytes near the start, where sizes are, made very large."""
    at = chance.randrange(4, min(40, len(data) - 4))
    data[at : at + 4] = chance.choice(
        (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff")
    )
    return bytes(data)


def hostile_name(chance: random.Random) -> bytes:
    """A path of up to eight parts, seldom valid text, that stays inside its folder."""
    depth = chance.choice((1, 1, 2, 2, 3, 8, 30))
    parts = [chance.choice(WORDS).encode() for _ in range(depth)]
    if chance.random() < 0.1:
        parts[-1] = bytes(chance.choice(b"\x80\xff\xe9abc") for _ in range(6))
    stem = parts[-1] + str(chance.randrange(1000)).encode()
    return b"/".join([*parts[:-1], stem[:230] + chance.choice(SUFFIXES).encode()])


def write_hostile_tree(root: Path, count: int, seed: int) -> int:
    """Write up to `count` files below `root`; returns how many there are.

    Of three trees one is a concept folder of mostly sound images, which is trained on; one such a
    folder of mostly spoilt ones; one a wild tree.
    """
    chance = random.Random(seed)
    whole = originals()
    written = 0
    flat = seed % 3 > 0
    for number in range(count):
        name = hostile_name(chance)
        if flat:
            name = b"10_toy/%d" % number + name.rpartition(b"/")[2]
        path = root / os.fsdecode(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                continue
            if chance.random() < 0.02:
                path.symlink_to(chance.choice(("/etc/passwd", "..", "nowhere", ".")))
            elif seed % 3 == 1 and chance.random() < 0.8:
                picture(number, (48, 40)).save(f"{path}.png")
            else:
                path.write_bytes(hostile_bytes(chance, whole))
            written += 1
        except OSError:
            continue  # a file lies where a folder would go, or the name is too long here
    return written

"""Whole datasets: every file accounted for, broken ones named, a clean tree for the trainer."""

import io
import os
import random
from collections import Counter
from pathlib import Path

import pillow_heif
import pytest
from hostile import write_hostile_tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import picture, write_set
from PIL import Image, ImageCms

from bench.dataset_hostile import account
from tenner.core.errors import DatasetError
from tenner.dataset import DatasetRequest, SubsetRequest, decode, inspect_dataset
from tenner.dataset.facts import ImageFacts, Unreadable
from tenner.dataset.items import spread_regularisation
from tenner.dataset.listing import list_files

pillow_heif.register_heif_opener()


def request(source, **more) -> DatasetRequest:
    numbers = {"resolution": (64, 64), "min_bucket_reso": 32, "max_bucket_reso": 128,
               "bucket_reso_steps": 8, "num_workers": 1}  # fmt: skip
    return DatasetRequest(source=str(source), **(numbers | more))


def kinds(dataset):
    return {each.kind for each in dataset.findings}


def test_a_plain_kohya_set_is_linked_with_its_captions(tmp_path):
    write_set(tmp_path / "10_toy", 3)
    dataset = inspect_dataset(request(tmp_path, trigger="sks toy"), tmp_path / "work")
    assert dataset.num_images == 3
    assert dataset.num_image_passes == 30
    assert dataset.num_captions == 3
    first = dataset.images[0]
    assert first.path.is_symlink()
    assert first.path.resolve() == (tmp_path / "10_toy" / "img000.png").resolve()
    assert first.path.parent.name == "10_toy"
    assert first.path.with_suffix(".txt").read_text() == "a sks toy, number 0\n"
    assert dataset.bucket_of(first).bucket == (80, 48)


def test_the_users_folder_is_never_written_to(tmp_path):
    folder = tmp_path / "10_toy"
    write_set(folder, 3)
    picture(9).convert("CMYK").save(folder / "c.jpg")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    folder.chmod(0o555)
    try:
        inspect_dataset(request(folder), tmp_path / "work")
    finally:
        folder.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_trainers_read_wrongly_is_brought_to_upright_8_bit_srgb(tmp_path):
    folder = tmp_path / "1_toy"
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(1).save(folder / "turned.Jpg", exif=turned)
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(folder / "clear.png")
    Image.new("I;16", (64, 64), 32768).save(folder / "deep.png")
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(folder / "cmyk.jpg")
    picture(2).save(folder / "old.gif")
    picture(3).save(folder / "scan.tif")
    picture(4).save(folder / "new.avif")
    picture(8).save(folder / "phone.heic")
    picture(5).save(folder / "web.jfif", "JPEG")
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    picture(6).save(folder / "odd.png", icc_profile=lab.tobytes())
    dataset = inspect_dataset(request(tmp_path), tmp_path / "work")
    copies = {image.source.rpartition("/")[2]: opened(image.path) for image in dataset.images}
    assert len(copies) == 10
    assert {path.suffix for path in (i.path for i in dataset.images)} == {".png"}
    assert copies["turned.Jpg"].size == (64, 96)
    assert copies["clear.png"].getpixel((5, 5)) == (255, 255, 255)
    assert copies["deep.png"].getpixel((5, 5)) == 127
    red, green, blue = copies["cmyk.jpg"].getpixel((5, 5))
    assert red > 200
    assert green < 60
    assert blue < 60
    assert all(copy.mode in ("RGB", "L") for copy in copies.values())
    assert len(dataset.corrected) >= 9


def test_alpha_is_kept_for_a_masked_loss(tmp_path):
    folder = tmp_path / "1_toy"
    write_set(folder, 2)
    Image.new("RGBA", (64, 64), (255, 0, 0, 90)).save(folder / "clear.png")
    dataset = inspect_dataset(request(tmp_path, alpha_mask=True), tmp_path / "work")
    (copy,) = [image.path for image in dataset.images if "clear" in image.source]
    assert opened(copy).getpixel((0, 0)) == (255, 0, 0, 90)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def spoil(folder: Path) -> dict[str, str]:
    """Broken files by name, and the word that says why."""
    picture(50).resize((400, 300)).save(folder / "half.jpg")
    picture(51).resize((400, 300)).save(folder / "half.png")
    for name in ("half.jpg", "half.png"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    (folder / "page.jpg").write_text("<!DOCTYPE html><p>Sign in")
    (folder / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "noise.webp").write_bytes(os.urandom(500))
    return {
        "half.jpg": "cut off", "half.png": "cut off", "empty.png": "empty", "page.jpg": "web page",
        "pointer.png": "git-lfs", "dot.png": "only 1x1", "noise.webp": "no image format",
    }  # fmt: skip


def test_large_jpegs_are_judged_as_by_a_full_decode(tmp_path):
    """Pixels are computed at the measured size only; what is broken must be found all the same."""
    chance = random.Random(7)
    path = tmp_path / "a.jpg"
    verdicts: Counter[bool] = Counter()
    for number in range(120):
        out = io.BytesIO()
        picture(number % 5, (500, 420)).save(out, "JPEG", progressive=number % 2, quality=80)
        data = bytearray(out.getvalue())
        if number % 3:
            data[chance.randrange(len(data))] = chance.randrange(256)
        else:
            data = data[: chance.randrange(20, len(data))]
        path.write_bytes(data)
        found = decode.inspect(path, training_area=64 * 64, alone=True)
        try:
            with Image.open(path) as image:
                image.load()
                whole = image.size
        except OSError:
            assert isinstance(found, Unreadable), number
        else:
            assert isinstance(found, ImageFacts), number
            assert (found.width, found.height) == whole
        verdicts[isinstance(found, Unreadable)] += 1
    assert min(verdicts[True], verdicts[False]) > 20


def test_few_broken_images_are_left_out_and_each_is_named(tmp_path):
    write_set(tmp_path / "1_toy", 40)
    reasons = spoil(tmp_path / "1_toy")
    dataset = inspect_dataset(request(tmp_path), tmp_path / "work")
    assert dataset.num_images == 40
    text = {note.path.rpartition("/")[2]: note.why for note in dataset.left_out}
    for name, why in reasons.items():
        assert why in text[name]


def test_many_broken_images_stop_the_run(tmp_path):
    write_set(tmp_path / "1_toy", 8)
    spoil(tmp_path / "1_toy")
    with pytest.raises(DatasetError, match="7 of 15 images cannot be used"):
        inspect_dataset(request(tmp_path), tmp_path / "work")


def test_junk_is_ignored_and_other_files_are_accounted_for(tmp_path):
    folder = tmp_path / "1_toy"
    write_set(folder, 20)
    for name in ("._img000.png", ".DS_Store", "Thumbs.db", "desktop.ini", "img000.npz"):
        (folder / name).write_bytes(b"x")
    (folder / ".ipynb_checkpoints").mkdir()
    picture(1).save(folder / ".ipynb_checkpoints" / "img000.png")
    (folder / "clip.mp4").write_bytes(b"x")
    (folder / "lost.txt").write_text("a caption of nothing")
    dataset = inspect_dataset(request(tmp_path), tmp_path / "work")
    assert dataset.num_images == 20
    left_out = {note.path.rpartition("/")[2]: note.why for note in dataset.left_out}
    assert left_out == {
        "clip.mp4": "a video", "lost.txt": "a text file without an image of its name"
    }  # fmt: skip


def test_exact_and_near_duplicates_are_reported(tmp_path):
    folder = tmp_path / "1_toy"
    paths = write_set(folder, 16)
    (folder / "twin.png").write_bytes(paths[0].read_bytes())
    picture(1).resize((120, 80)).save(folder / "near.jpg", quality=80)
    dataset = inspect_dataset(request(tmp_path), tmp_path / "work")
    found = {each.kind: each for each in dataset.findings}
    assert set(found["duplicate"].files) == {"1_toy/img000.png", "1_toy/twin.png"}
    assert set(found["near_duplicate"].files) == {"1_toy/img001.png", "1_toy/near.jpg"}


@pytest.mark.parametrize(("count", "level"), [(1, "warning"), (20, "note"), (160, "note")])
def test_the_size_of_the_set_is_judged_by_the_guides_numbers(tmp_path, count, level):
    write_set(tmp_path / "1_toy", count)
    dataset = inspect_dataset(request(tmp_path, num_workers=2), tmp_path / "work")
    assert {each.level for each in dataset.findings if each.kind == "set_size"} == {level}


def test_subsets_and_regularisation_images(tmp_path):
    write_set(tmp_path / "a", 2)
    write_set(tmp_path / "b", 3, first=10)
    write_set(tmp_path / "reg" / "1_toy", 4, first=20)
    needed = request(
        "",
        subsets=(
            SubsetRequest(image_dir=str(tmp_path / "a"), num_repeats=2, class_tokens="sks one"),
            SubsetRequest(image_dir=str(tmp_path / "b"), num_repeats=1, class_tokens="sks two"),
        ),
        reg_data_dir=str(tmp_path / "reg"),
    )
    dataset = inspect_dataset(needed, tmp_path / "work")
    train = [image for image in dataset.images if not image.is_reg]
    reg = [image for image in dataset.images if image.is_reg]
    assert sum(image.num_repeats for image in train) == 7
    assert [image.num_repeats for image in reg] == [2, 2, 2, 1]
    assert {path.name for path in dataset.train_dir.iterdir()} == {"2_sks one", "1_sks two"}
    assert dataset.reg_dir is not None
    assert len(list(dataset.reg_dir.rglob("*.txt"))) == 4
    assert spread_regularisation(train) == tuple(train)


def test_names_of_any_script_and_of_no_script(tmp_path):
    folder = tmp_path / "2_قطة"
    write_set(folder, 3)
    picture(5).save(folder / "猫 [1] 😀.png")
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "img000.png").read_bytes())
    dataset = inspect_dataset(request(tmp_path), tmp_path / "work")
    assert dataset.num_images == 5
    dataset.to_json()
    assert all(image.path.exists() for image in dataset.images)


def test_a_second_inspection_is_the_same_and_a_changed_caption_is_not(tmp_path):
    write_set(tmp_path / "1_toy", 3)
    source = tmp_path / "1_toy"
    one = inspect_dataset(request(source), tmp_path / "work")
    assert inspect_dataset(request(source), tmp_path / "work") == one
    (source / "img000.txt").write_text("something else")
    again = inspect_dataset(request(source), tmp_path / "work")
    assert again.content_hash != one.content_hash


def test_a_second_start_converts_nothing_and_keeps_caches_of_what_is_the_same(tmp_path):
    source = tmp_path / "2_toy"
    write_set(source, 2)
    picture(5).convert("CMYK").save(source / "z.tif")
    (source / "z.txt").write_text("a print")
    first = inspect_dataset(request(source), tmp_path / "work")
    copies = {image.source: image.path for image in first.images}
    made = copies["z.tif"].stat().st_ino
    caches = {
        name: path.with_name(f"{path.stem}_0064x0064_sd.npz") for name, path in copies.items()
    }
    for cache in caches.values():
        cache.write_bytes(b"latents")
    (source / "img000.txt").write_text("another caption")
    picture(7).save(source / "img001.png")
    again = inspect_dataset(request(source), tmp_path / "work")
    assert {image.source: image.path for image in again.images} == copies
    assert copies["z.tif"].stat().st_ino == made
    assert [name for name, cache in caches.items() if cache.exists()] == ["z.tif"]
    assert copies["img000.png"].with_suffix(".txt").read_text() == "another caption\n"
    (source / "img000.png").unlink()
    fewer = inspect_dataset(request(source), tmp_path / "work")
    assert len(list(fewer.train_dir.rglob("*.png"))) == 2
    assert not list(fewer.train_dir.rglob("*.npz"))
    recolored = inspect_dataset(request(source, num_repeats=3), tmp_path / "work")
    assert all(image.path.exists() for image in recolored.images)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_hostile_corpus_is_accounted_for(tmp_path, seed):
    """A short run of bench/dataset_hostile.py, which feeds ten thousand files."""
    (tmp_path / "tree").mkdir()
    assert write_hostile_tree(tmp_path / "tree", 120, seed) > 60
    ends = account(tmp_path / "tree", tmp_path / "work")
    assert ends["left out and named"] > 0
    assert ends["trees trained on"] == (seed == 1)


NAMES = st.sampled_from(
    ["a.png", "b.jpg", "10_x/c.png", "10_x/c.txt", "y/d.webp", "10_x/.e.png", "f.gif", "deep/" * 20]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, st.binary(max_size=80), max_size=6), st.integers(0, 400))
def test_hostile_files_never_crash_and_none_is_lost(tmp_path_factory, files, cut):
    root = tmp_path_factory.mktemp("hostile")
    write_set(root / "10_x", 1)
    good = (root / "10_x" / "img000.png").read_bytes()
    for name, data in files.items():
        path = root / (name + "z.png" if name.endswith("/") else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(good[:cut] + data)
    try:
        dataset = inspect_dataset(request(root), root.parent / (root.name + "-work"))
    except DatasetError:
        return
    known = {image.source for image in dataset.images} | {note.path for note in dataset.left_out}
    for entry in list_files(root):
        assert entry.path in known or entry.kind in ("junk", "cache", "caption")

"""Folder names and trees as people make them: read, corrected, or refused by name."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from pictures import picture, write_set
from PIL import Image

from tenner.dataset import DatasetRequest, inspect_dataset
from tenner.dataset.folder_name import read_folder_name
from tenner.dataset.listing import classify
from tenner.dataset.view import build_view, subset_view


def view(*paths: str, root: str = "training_data", num_repeats: int | None = None):
    entries = [classify(path, 10) for path in sorted(paths)]
    return build_view(entries, root_name=root, num_repeats=num_repeats)


def concepts(found):
    return [
        (each.num_repeats, each.class_tokens, [image.path for image in each.images])
        for each in found.concepts
    ]


def errors(found):
    return [each.text for each in found.findings if each.level == "error"]


@pytest.mark.parametrize(
    ("name", "repeats", "concept", "exact"),
    [
        ("10_cat", 10, "cat", True),
        ("10_sks_star toy", 10, "sks_star toy", True),
        ("10", 10, "", True),
        ("10_", 10, "", True),
        ("0_cat", 0, "cat", True),
        ("10 cat", 10, "cat", False),
        ("10-cat", 10, "cat", False),
        ("10x cat", 10, "cat", False),
        ("10 _cat", 10, "cat", True),
        ("10_قطة", 10, "قطة", True),
    ],
)
def test_names_that_say_repeats(name, repeats, concept, exact):
    found = read_folder_name(name)
    assert found is not None
    assert (found.num_repeats, found.concept, found.exact) == (repeats, concept, exact)


@pytest.mark.parametrize("name", ["cat", "cat_10", "3d art", "2024-12 photos", "", "_10_cat"])
def test_names_that_say_none(name):
    assert read_folder_name(name) is None


@pytest.mark.parametrize(
    ("paths", "root", "expected"),
    [
        (["a.png"], "training_data", (10, "", ["a.png"])),
        (["a.png"], "7_cat", (7, "cat", ["a.png"])),
        (["10_cat/a.png"], "training_data", (10, "cat", ["10_cat/a.png"])),
        (["10_cat/a.png"], "10_cat", (10, "cat", ["10_cat/a.png"])),
        (["10_cat/10_cat/a.png"], "data", (10, "cat", ["10_cat/10_cat/a.png"])),
        (["set/10_cat/a.png"], "data", (10, "cat", ["set/10_cat/a.png"])),
        (["cat/a.png"], "training_data", (10, "cat", ["cat/a.png"])),
        (["10 cat/a.png"], "training_data", (10, "cat", ["10 cat/a.png"])),
        (["10_cat/raw/a.png"], "training_data", (10, "cat", ["10_cat/raw/a.png"])),
    ],
)
def test_one_concept_however_it_is_laid(paths, root, expected):
    found = view(*paths, root=root)
    assert errors(found) == []
    assert concepts(found) == [expected]


def test_what_was_corrected_is_reported():
    found = view("10 cat/a.png")
    assert [each.text for each in found.findings] == ['folder "10 cat" is read as "10_cat"']
    assert [note.path for note in found.corrected] == ["10 cat"]


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (["0_cat/a.png"], '"0_cat" requests 0 repeats'),
        (["cat_10/a.png"], '"cat_10": is 10 its repeats'),
        (["10_cat/a.png", "dog/b.png"], '"dog" names no repeats'),
        (["10_cat/a.png", "b.png"], "1 image beside the concept folders: b.png"),
        (["10_cat/a.png", "10_cat/old/b.png"], '"10_cat" holds 1 image and, in "10_cat/old"'),
    ],
)
def test_what_could_mean_two_things_is_an_error_that_names_the_folder(paths, named):
    assert any(named in text for text in errors(view(*paths)))


def test_repeats_set_by_the_user_settle_plain_folders():
    found = view("10_cat/a.png", "dog_5/b.png", num_repeats=3)
    assert errors(found) == []
    assert [each[:2] for each in concepts(found)] == [(10, "cat"), (3, "dog_5")]


def test_numbered_folders_are_not_taken_for_repeats():
    found = view("person_2/a.png", "person_3/b.png")
    assert errors(found) == []


def test_a_year_as_repeats_is_questioned():
    found = view("2024_photos/a.png")
    assert any("2,024 repeats" in each.text for each in found.findings)


def test_more_than_ten_thousand_repeats_are_refused_wherever_they_are_written():
    assert errors(view("10000_photos/a.png")) == []
    assert any("more than 10,000 repeats" in text for text in errors(view("10001_photos/a.png")))
    reg = build_view([classify("10001_cat/a.png", 1)], root_name="reg", is_reg=True)
    assert any("more than 10,000 repeats" in text for text in errors(reg))
    entries = [classify("a.png", 1)]
    for root, repeats in (("x", 10_001), ("10001_x", None)):
        found = subset_view(
            entries, root_name=root, num_repeats=repeats, class_tokens=None, is_reg=False
        )
        assert errors(found) == [f"{root}: num_repeats is 10001, and 10,000 is the most"]
        assert found.concepts == ()


@pytest.mark.parametrize("paths", [[], ["notes.md"], [".DS_Store", "__MACOSX/._a.png"]])
def test_nothing_found_says_what_was_there_and_gives_an_example(paths):
    (finding,) = view(*paths).findings
    assert finding.level == "error"
    assert "training_data/10_my_cat/photo1.jpg" in finding.fix


def test_a_named_subset_has_its_own_repeats_and_words():
    entries = [classify("a.png", 1)]
    found = subset_view(entries, root_name="x", num_repeats=4, class_tokens="sks dog", is_reg=False)
    assert concepts(found) == [(4, "sks dog", ["a.png"])]


@pytest.mark.sd_scripts
@pytest.mark.skipif(
    not (os.environ.get("SD_SCRIPTS_DIR") and os.environ.get("TENNER_TRAINER_PYTHON")),
    reason="needs SD_SCRIPTS_DIR and TENNER_TRAINER_PYTHON",
)
@pytest.mark.timeout(400)
def test_sd_scripts_sees_in_the_working_copy_what_we_see(tmp_path):
    """Names, formats and folders that its own walk would pass over or read otherwise."""
    data, reg = tmp_path / "data", tmp_path / "reg"
    write_set(data / "3_sks toy", 4)
    write_set(data / "2 wild [x] قطة", 3, first=4)
    picture(20, (300, 90)).save(data / "3_sks toy" / "a [1] *.Jpg", "JPEG")
    picture(21, (90, 300)).save(data / "3_sks toy" / "b.jfif", "JPEG")
    picture(22).convert("CMYK").save(data / "3_sks toy" / "c.TIF")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(23, (200, 100)).save(data / "3_sks toy" / "d.jpeg", exif=turned)
    (data / "3_sks toy" / "d.txt").write_text("first line\nsecond line")
    write_set(reg / "1_toy", 5, first=30)
    needed = DatasetRequest(
        source=str(data), reg_data_dir=str(reg), resolution=(128, 128), min_bucket_reso=64,
        max_bucket_reso=256, num_workers=2,
    )  # fmt: skip
    dataset = inspect_dataset(needed, tmp_path / "work")
    options = ("--resolution=128,128", "--enable_bucket", "--min_bucket_reso=64",
               "--max_bucket_reso=256", "--caption_extension=.txt",
               "--train_batch_size=2")  # fmt: skip
    done = subprocess.run(
        [os.environ["TENNER_TRAINER_PYTHON"], Path(__file__).with_name("capture_folder_view.py"),
         dataset.train_dir, dataset.reg_dir, *options],
        cwd=os.environ["SD_SCRIPTS_DIR"], capture_output=True, text=True, timeout=380, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = []
    for image in dataset.images:
        location = dataset.bucket_of(image)
        ours.append(
            {
                "path": image.path.relative_to(tmp_path / "work").as_posix(),
                "caption": image.caption,
                "num_repeats": image.num_repeats,
                "is_reg": image.is_reg,
                "bucket": list(location.bucket),
                "resized": list(location.resized),
            }
        )
    assert theirs["images"] == sorted(ours, key=lambda each: each["path"])
    assert len(ours) == 16
    assert theirs["batches"] == dataset.batches_per_epoch(2)

"""Every setting of the dataset does what it says, through the program's own door."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pictures import picture, write_set

from tenner.cli.main import main
from tenner.dataset import DatasetRequest, SubsetRequest, inspect_dataset

SIZES = ("--base_model", "tiny", "--resolution", "64", "--min_bucket_reso", "64")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENNER_CACHE_DIR", str(tmp_path / "cache"))


def checked(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict:
    assert main(["check", *SIZES, *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def kinds(found: dict) -> set[str]:
    return {each["kind"] for each in found["findings"]}


def refused(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tenner", "check", "--dataset", "toy.zip", *words, *SIZES],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    return done.stderr


def request(source: Path, **more) -> DatasetRequest:
    return DatasetRequest(
        source=str(source), resolution=(64, 64), min_bucket_reso=32, max_bucket_reso=128,
        bucket_reso_steps=8, num_workers=1, **more,
    )  # fmt: skip


def captions(source: Path, tmp_path: Path, **more) -> list[str]:
    dataset = inspect_dataset(request(source, **more), tmp_path / "work")
    for image in dataset.images:
        assert image.path.with_suffix(".txt").read_text() == image.caption + "\n"
    return [image.caption for image in dataset.images]


def test_runs_kept_inside_the_dataset_folder_are_no_part_of_it(tmp_path, capsys):
    photos = tmp_path / "photos"
    write_set(photos, 3)
    run = photos / "output" / "my_lora"
    write_set(run / "samples" / "final", 4, first=10)
    old = photos / "runs" / "old"
    write_set(old / "dataset" / "train" / "10_x", 2, first=20)
    for name in ("checkpoints", "state", "samples"):
        (old / name).mkdir(exist_ok=True)
    (old / "events.jsonl").touch()
    found = checked(capsys, str(photos), "--output_dir", str(photos / "output"))
    assert found["num_images"] == 3
    assert found["left_out"] == []
    inner = checked(capsys, str(photos), "--output_dir", str(photos), code=3)
    assert "output" in inner["findings"][0]["text"]


def test_the_archives_checksum_and_size_are_held(tmp_path, capsys):
    write_set(tmp_path / "10_toy", 2)
    with zipfile.ZipFile(tmp_path / "toy.zip", "w") as packed:
        for path in (tmp_path / "10_toy").iterdir():
            packed.write(path, f"10_toy/{path.name}")
    assert "is not the expected file" in refused("--dataset_sha256", "0" * 64)
    assert "unpacks to more than" in refused("--max_dataset_gb", "0.000001")
    assert checked(capsys, "--dataset", "toy.zip")["num_images"] == 2


def test_small_buckets_are_judged_for_the_batch_that_was_named(tmp_path, capsys):
    for number in range(6):
        (tmp_path / "toy").mkdir(exist_ok=True)
        picture(number, (64 + 16 * number, 64)).save(tmp_path / "toy" / f"{number}.png")
    words = (str(tmp_path / "toy"), "--num_repeats", "1", "--min_bucket_reso", "32")
    assert "small_buckets" not in kinds(checked(capsys, *words, "--batch_size", "1"))
    assert "small_buckets" in kinds(checked(capsys, *words, "--batch_size", "4"))


def test_all_lines_are_kept_where_one_is_drawn(tmp_path, capsys):
    toy = tmp_path / "10_toy"
    write_set(toy, 1)
    (toy / "img000.txt").write_text("a sks toy, red\n\na toy, {big|small}\n")
    assert captions(toy, tmp_path) == ["a sks toy, red"]
    wild = captions(toy, tmp_path, enable_wildcard=True, trigger="sks", add_trigger=True)
    assert wild == ["a sks toy, red\nsks, a toy, {big|small}"]
    assert "caption_lines" in kinds(checked(capsys, str(toy)))
    lined = checked(capsys, str(toy), "--enable_wildcard", "--trigger", "sks")
    assert "caption_lines" not in kinds(lined)
    assert "trigger_missing" in kinds(lined)  # not in every line


def test_prefix_and_suffix_are_written_and_a_subsets_own_is_stronger(tmp_path, capsys):
    write_set(tmp_path / "a", 1)
    write_set(tmp_path / "b", 1, first=1)
    subsets = (
        SubsetRequest(image_dir=str(tmp_path / "a"), caption_prefix="sks dog,"),
        SubsetRequest(image_dir=str(tmp_path / "b"), caption_suffix=""),
    )
    needed = request(Path(), caption_prefix="all", caption_suffix="end", subsets=subsets)
    dataset = inspect_dataset(DatasetRequest(**{**vars(needed), "source": ""}), tmp_path / "work")
    assert [image.caption for image in dataset.images] == [
        "sks dog, a sks toy, number 0 end",
        "all a sks toy, number 1",
    ]
    words = (str(tmp_path / "a"), "--trigger", "star", "--num_repeats", "1")
    assert "trigger_missing" in kinds(checked(capsys, *words))
    assert "trigger_missing" not in kinds(checked(capsys, *words, "--caption_prefix", "star,"))


def test_alpha_is_kept_where_it_is_the_mask(tmp_path):
    from PIL import Image

    from tenner.pipeline.preflight import dataset_request
    from tenner.settings import load_request

    (tmp_path / "1_toy").mkdir()
    Image.new("RGBA", (64, 64), (255, 0, 0, 90)).save(tmp_path / "1_toy" / "clear.png")
    text = load_request(
        {"dataset": str(tmp_path), "alpha_mask": "true"}, {}, read_default_config=False
    )
    needed = dataset_request(text, "sd1", (64, 64), {})
    dataset = inspect_dataset(needed, tmp_path / "work")
    with Image.open(dataset.images[0].path) as copy:
        assert copy.getpixel((0, 0)) == (255, 0, 0, 90)


def test_masks_beside_the_images_become_their_alpha(tmp_path, capsys):
    from PIL import Image

    write_set(tmp_path / "toy", 2)
    Image.new("RGBA", (64, 64), (255, 0, 0, 90)).save(tmp_path / "toy" / "clear.png")
    (tmp_path / "masks").mkdir()
    for name, shade in (("img000.jpg", 255), ("clear.png", 0)):
        Image.new("L", (32, 32), shade).save(tmp_path / "masks" / name)
    config = tmp_path / "data.toml"
    config.write_text(
        "[[datasets]]\n[[datasets.subsets]]\n"
        f"image_dir = '{tmp_path}/toy'\nconditioning_data_dir = '{tmp_path}/masks'\n"
    )
    found = checked(capsys, str(config), code=3)
    assert found["findings"][0]["text"].startswith("1 image without a mask")
    Image.new("L", (96, 64), 120).save(tmp_path / "masks" / "IMG001.png")
    assert kinds(checked(capsys, str(config))) >= {"captions_missing"}
    subset = SubsetRequest(image_dir=str(tmp_path / "toy"), mask_dir=str(tmp_path / "masks"))
    needed = DatasetRequest(**{**vars(request(Path())), "source": "", "subsets": (subset,)})
    dataset = inspect_dataset(needed, tmp_path / "work")
    pixels = {}
    for image in dataset.images:
        with Image.open(image.path) as copy:
            pixels[image.source] = (copy.size, copy.getpixel((5, 5))[3])
    assert pixels == {
        "clear.png": ((64, 64), 0), "img000.png": ((96, 64), 255), "img001.png": ((96, 64), 120),
    }  # fmt: skip
    Image.new("L", (96, 64), 9).save(tmp_path / "masks" / "IMG001.png")
    again = inspect_dataset(needed, tmp_path / "work")
    assert again.content_hash != dataset.content_hash
    with Image.open(next(i.path for i in again.images if i.source == "img001.png")) as copy:
        assert copy.getpixel((0, 0))[3] == 9


def test_captions_in_a_table_are_read_and_a_text_file_is_stronger(tmp_path, capsys):
    folder = tmp_path / "photos"
    write_set(folder / "train", 3)
    for name in ("img001", "img002"):
        (folder / "train" / f"{name}.txt").unlink()
    rows = [
        {"file_name": "train/img000.png", "text": "from the table"},
        {"file_name": "train/img001.png", "text": "a toy, of\tthe table"},
        {"file_name": "train/gone.png", "text": "x"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "train" / "metadata.csv").write_text('file_name,text\nimg002.png,"a, b"\n')
    assert captions(folder, tmp_path) == ["a sks toy, number 0", "a toy, of the table", "a, b"]
    found = checked(capsys, str(folder))
    assert found["num_captions"] == 3
    assert "gone.png" in str(found["findings"])
    assert found["left_out"] == []


def test_a_broken_table_is_an_error_that_names_its_line(tmp_path, capsys):
    write_set(tmp_path / "photos", 2)
    (tmp_path / "photos" / "metadata.jsonl").write_text('{"file_name": "img000.png"}\n{oops\n')
    found = checked(capsys, str(tmp_path / "photos"), code=3)
    assert "line 2 is not JSON" in found["findings"][0]["text"]

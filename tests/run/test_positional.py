"""The first word of `check`, `plan` and `train` is a settings file or any dataset."""

import shutil
import zipfile
from pathlib import Path

import pytest

from tenner.base.tiny import concept_dir
from tenner.cli.main import main

TINY = ("--base_model", "tiny", "--resolution", "64")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENNER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("kind", ["zip", "gztar"])
@pytest.mark.parametrize("renamed", [False, True])
def test_an_archive_is_the_dataset(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, renamed: bool
) -> None:
    made = Path(shutil.make_archive("photos", kind, concept_dir()))
    word = str(made.rename("photos")) if renamed else made.name
    assert main(["check", word, *TINY]) == 0
    assert "20 images" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("s3://", "s3://"),
        ("hf://datasets/", "hf://"),
        ("https://127.0.0.1:9/photos.zip", "cannot be fetched from 127.0.0.1"),
        ("ftp://host/photos.zip", "of a kind that is not known"),
    ],
)
def test_an_address_is_the_dataset(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, word: str, message: str
) -> None:
    monkeypatch.setattr("tenner.storage.http.FIRST_WAIT_SECONDS", 0)
    assert main(["check", word, *TINY]) in (2, 3)
    output = capfd.readouterr()
    assert message in output.out + output.err
    assert "settings file" not in output.err


@pytest.mark.parametrize(
    ("word", "expected"),
    [("photoz", "photos"), ("./photoz", "photos"), ("my_phots.zip", "my_photos.zip")],
)
def test_a_mistyped_name_is_reported_with_the_near_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], word: str, expected: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "my_photos.zip").touch()
    assert main(["plan", word, *TINY]) == 2
    output = capfd.readouterr().err
    assert f"{word} here" in output
    assert f"did you mean {expected}?" in output


def test_a_missing_settings_file_is_one(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "mine.toml"]) == 2
    assert "there is no settings file mine.toml" in capfd.readouterr().err


def test_a_settings_file_without_a_suffix_is_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text(f'dataset = "{concept_dir()}"\nbase_model = "tiny"\n')
    assert main(["plan", "mine", "--device", "cpu"]) == 0
    assert "tiny" in capfd.readouterr().out


def test_two_datasets_are_one_too_many(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(concept_dir()), "--dataset", "photos"]) == 2
    assert "given twice" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "begins", "kind"),
    [("p.rar", b"Rar!\x1a\x07\x01\x00", "RAR"), ("p", b"7z\xbc\xaf\x27\x1c\x00\x04", "7z")],
)
def test_archives_that_are_not_unpacked_are_reported_with_what_to_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, begins: bytes, kind: str
) -> None:
    (tmp_path / name).write_bytes(begins + bytes(100))
    assert main(["check", name, *TINY]) == 3
    output = capfd.readouterr()
    assert f"{name} is a {kind} archive" in output.out + output.err
    assert "pack the images as zip" in output.out + output.err


def test_a_zip_with_an_entry_twice_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile("twice.zip", "w") as out:
        out.writestr("3_toy/a.png", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            out.writestr("3_toy/a.png", b"two")
    assert main(["check", "twice.zip", *TINY]) == 3
    output = capfd.readouterr()
    assert "twice.zip holds 1 names more than once: a.png" in output.out + output.err

"""Texts that leave the machine name neither its user nor its folders."""

from pathlib import Path

import pytest

from tenner.core.redact import LocalPaths


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/ali", "~"),
        ("/home/ali/my photos", "~/my photos"),
        ("cannot read /Users/ali/a.png: no such file", "cannot read ~/a.png: no such file"),
        ("/mnt/nas/ali reza/photos", "…/photos"),
        ("from /mnt/nas/photos to s3://bucket/ali/x", "from …/photos to s3://bucket/ali/x"),
        ("file:///mnt/results/cat", "…/cat"),
        (
            "https://host.example/a/b/c and 3/4 of it/s",
            "https://host.example/a/b/c and 3/4 of it/s",
        ),
        ('in (/opt/a/b.py) and "/srv/c/d"', 'in (…/b.py) and "…/d"'),
        (r"C:\Users\ali\cat", r"~\cat"),
        ("/tmp", "/tmp"),
    ],
)
def test_a_path_becomes_its_last_name_and_a_home_its_sign(text: str, left: str) -> None:
    assert LocalPaths().removed(text) == left


def test_paths_in_the_run_are_reported_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "people" / "ali"))
    paths = LocalPaths(inside=(tmp_path / "out" / "cat",))
    assert paths.removed(f"{tmp_path}/out/cat/state/step-1") == "state/step-1"
    assert paths.removed(f"saved in {tmp_path}/out/cat") == "saved in ."
    assert paths.removed(f"{tmp_path}/people/ali") == "~"
    value = {"a": [f"{tmp_path}/out/cat/x", 1], "b": None}
    assert paths.removed_in(value) == {"a": ["x", 1], "b": None}

"""Delivery into a folder, with real files."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from tenner.core import checksums as sealing
from tenner.core.checksums import DeliveredFile, hash_file
from tenner.core.errors import DeliveryError
from tenner.core.events import Event, Phase
from tenner.core.secrets import NO_SECRETS
from tenner.runs.check_destinations import check_destinations
from tenner.runs.deliver import deliver
from tenner.storage.destination_address import parse_destination
from tenner.storage.manifest import make_manifest


def files_of_a_run(folder: Path) -> list[DeliveredFile]:
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "cat.safetensors"
    weights.write_bytes(os.urandom(3 << 20))
    report = folder / "report.html"
    report.write_text("<html>قطة</html>", encoding="utf-8")
    return [
        DeliveredFile(path=weights, name="cat.safetensors"),
        DeliveredFile(path=report, name="pages/report.html"),
    ]


def test_files_arrive_whole_and_the_manifest_lists_them(tmp_path: Path) -> None:
    files = files_of_a_run(tmp_path / "run")
    target = tmp_path / "out" / "deep"
    events: list[Event] = []
    delivered = deliver(
        files, [parse_destination(f"file://{target}")], secrets=NO_SECRETS, on_event=events.append
    )
    for file in files:
        assert (target / file.name).read_bytes() == file.path.read_bytes()
    listed = json.loads((target / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {each["name"]: each["size"] for each in listed} == {
        file.name: file.path.stat().st_size for file in files
    }
    assert set(delivered.at[0].put) == {"cat.safetensors", "pages/report.html", "manifest.json"}
    last = [event for event in events if isinstance(event, Phase)][-1]
    assert last.done == last.total == sum(file.path.stat().st_size for file in files)
    assert str(tmp_path / "run") not in json.dumps(delivered.to_json())


def test_second_delivery_sends_only_what_is_missing_or_changed(tmp_path: Path) -> None:
    files = files_of_a_run(tmp_path / "run")
    target = parse_destination(f"file://{tmp_path / 'out'}")
    deliver(files, [target], secrets=NO_SECRETS)
    assert deliver(files, [target], secrets=NO_SECRETS).at[0].put == ()

    weights = tmp_path / "out" / "cat.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[1000] ^= 1  # same size, other content
    weights.write_bytes(damaged)
    again = deliver(files, [target], secrets=NO_SECRETS).at[0]
    assert set(again.put) == {"cat.safetensors", "manifest.json"}
    assert again.unchanged == ("pages/report.html",)
    assert weights.read_bytes() == files[0].path.read_bytes()


def test_one_failing_destination_does_not_stop_another(tmp_path: Path) -> None:
    files = files_of_a_run(tmp_path / "run")
    (tmp_path / "blocked").write_text("a file where a folder is expected")
    blocked = parse_destination(f"file://{tmp_path}/blocked/out")
    good = parse_destination(f"file://{tmp_path}/good")
    with pytest.raises(DeliveryError) as raised:
        deliver(files, [blocked, good], secrets=NO_SECRETS, total_limit_seconds=5)
    failed, done = raised.value.problems
    assert "blocked" in failed.text
    assert done.level == "note"
    assert done.text.endswith(f"delivered and verified at: file://{tmp_path}/good")
    assert "blocked" in raised.value.problems[0].text
    assert raised.value.problems[0].fix
    assert (tmp_path / "good" / "manifest.json").exists()
    assert files[0].path.exists()


def test_a_file_that_changes_meanwhile_is_reported_and_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of_a_run(tmp_path / "run")
    manifest = make_manifest(files)
    module = sys.modules["tenner.runs.deliver"]
    monkeypatch.setattr(module, "begin_manifest", lambda *_, **__: manifest)
    files[1].path.write_text("another page")
    with pytest.raises(DeliveryError, match=r"report\.html changed while it was delivered"):
        deliver(files, [parse_destination(f"file://{tmp_path}/out")], secrets=NO_SECRETS)


def test_files_that_cannot_be_hashed_are_named_and_no_set_is_called_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of_a_run(tmp_path / "run")

    def fail(path: Path) -> tuple[int, str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(sealing, "hash_file", fail)
    targets = [parse_destination(f"file://{tmp_path}/{name}") for name in ("out", "other")]
    with pytest.raises(DeliveryError, match=r"cannot read .*, which is to be delivered") as raised:
        deliver(files, targets, secrets=NO_SECRETS)
    assert len(set(raised.value.problems)) == len(raised.value.problems)
    assert all(problem.fix for problem in raised.value.problems)
    assert not (tmp_path / "out" / "manifest.json").exists()
    (tmp_path / "blocked").write_text("")
    blocked = parse_destination(f"file://{tmp_path}/blocked/out?optional")
    with pytest.raises(DeliveryError, match=r"cannot read .*, which is to be delivered"):
        deliver(files, [blocked], secrets=NO_SECRETS)
    with pytest.raises(DeliveryError) as raised:
        make_manifest(files)
    assert len(raised.value.problems) == len(files)


def test_a_file_that_grows_while_it_is_hashed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of_a_run(tmp_path / "run")

    def grow(path: Path) -> tuple[int, str]:
        with path.open("ab") as out:
            out.write(b"more")
        return hash_file(path)

    monkeypatch.setattr(sealing, "hash_file", grow)
    with pytest.raises(DeliveryError, match=r"cat\.safetensors changed while it was delivered"):
        make_manifest(files)


def test_an_optional_destination_that_fails_leaves_the_run_delivered(tmp_path: Path) -> None:
    files = files_of_a_run(tmp_path / "run")
    (tmp_path / "blocked").write_text("")
    blocked = parse_destination(f"file://{tmp_path}/blocked/out?optional")
    good = parse_destination(f"file://{tmp_path}/good")
    delivered = deliver(files, [blocked, good], secrets=NO_SECRETS, total_limit_seconds=5)
    assert [each.destination for each in delivered.at] == [str(good)]
    assert len(delivered.problems) == 1


def test_check_proves_writing_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    problems = check_destinations(
        [parse_destination(f"file://{tmp_path}/{name}") for name in ("new/deep", "blocked/x")],
        secrets=NO_SECRETS,
    )
    assert [problem.level for problem in problems] == ["error"]
    assert "blocked" in problems[0].text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocked"]


def test_check_warns_of_another_runs_complete_set(tmp_path: Path) -> None:
    target = parse_destination(f"file://{tmp_path}/out")
    deliver(files_of_a_run(tmp_path / "run"), [target], secrets=NO_SECRETS, job="cat")
    assert check_destinations([target], secrets=NO_SECRETS, job="cat") == ()
    (problem,) = check_destinations([target], secrets=NO_SECRETS, job="dog")
    assert problem.level == "warning"
    assert "cat" in problem.text


def test_all_unreadable_and_badly_named_files_are_reported_at_once(tmp_path: Path) -> None:
    good = tmp_path / "a"
    good.write_text("a")
    names = ["../a", "/a", "a/../b", "manifest.json", "a", "a", "a//b", ""]
    files = [DeliveredFile(path=good, name=name) for name in names]
    files.append(DeliveredFile(path=tmp_path / "gone", name="gone"))
    with pytest.raises(DeliveryError) as raised:
        make_manifest(files)
    assert len(raised.value.problems) == len(names)  # all but the first "a", plus "gone"


def test_an_interrupted_copy_leaves_no_half_file_under_its_name(tmp_path: Path) -> None:
    files = files_of_a_run(tmp_path / "run")
    with pytest.raises(DeliveryError):
        deliver(
            files,
            [parse_destination(f"file://{tmp_path}/out")],
            secrets=NO_SECRETS,
            total_limit_seconds=0,
        )
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]

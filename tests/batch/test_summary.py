"""The page of a batch in both languages, from records that were written and read again."""

import json
from pathlib import Path

from tenner.core.messages import Message, msg
from tenner.queue.record import JobRecord, read_records, write_records
from tenner.queue.summary import render_summary

FAILED = msg(
    "{text} (fix: {fix})",
    text=msg("{name} is missing", name="model.safetensors"),
    fix=msg("remove {key}", key="vae"),
)


def records(folder: Path, problem: str) -> list[JobRecord]:
    done = JobRecord(name="one", run=str(folder), digest="1", state="delivered", seconds=75)
    bad = JobRecord(name="two", run=str(folder), digest="2", state="failed", problems=(problem,))
    return [done, bad]


def test_problems_keep_their_ids_and_values_in_the_record(tmp_path: Path) -> None:
    write_records(tmp_path / "batch.json", records(tmp_path, FAILED))
    written = json.loads((tmp_path / "batch.json").read_text())["jobs"][1]
    assert written["problems"] == ["model.safetensors is missing (fix: remove vae)"]
    (read,) = read_records(tmp_path / "batch.json")["two"].problems
    assert isinstance(read, Message)
    assert read == FAILED
    assert read_records(tmp_path / "batch.json")["one"].problems == ()


def test_a_record_without_ids_is_shown_as_it_stands(tmp_path: Path) -> None:
    write_records(tmp_path / "batch.json", records(tmp_path, "an older version's words"))
    found = read_records(tmp_path / "batch.json")
    assert found["two"].problems == ("an older version's words",)
    page = render_summary(tmp_path, "jobs", list(found.values()))
    assert "an older version&#39;s words" in page


def test_the_page_is_in_both_languages(tmp_path: Path) -> None:
    page = render_summary(tmp_path, "jobs", records(tmp_path, FAILED))
    assert '<span class="t" lang="ar">سُلِّمت</span>' in page
    assert "model.safetensors is missing (fix: remove vae)" in page
    assert '<bdi dir="ltr">model.safetensors</bdi> مفقود (الحل: احذف' in page
    assert 'id="language"' in page
    assert page.count('lang="ar"') == page.count('lang="en"') - 1  # the document itself

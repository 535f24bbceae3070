"""What `tenner check` shows: every image, errors included, on a page that runs nothing."""

import json
import re

from pictures import picture, write_set
from rich.console import Console

from tenner.dataset import DatasetRequest
from tenner.dataset.check import check, render
from tenner.dataset.sheet import write_sheet
from tenner.ui.web_page import page_script

HOSTILE = '"><script>alert(1)</script><img src=https://x.test/a>'


def request(source, **more):
    return DatasetRequest(
        source=str(source), resolution=(64, 64), min_bucket_reso=32, max_bucket_reso=128,
        bucket_reso_steps=8, num_workers=1, **more,
    )  # fmt: skip


def test_errors_are_part_of_the_result(tmp_path):
    write_set(tmp_path / "10_toy", 3)
    (tmp_path / "10_toy" / "bad.png").write_bytes(b"x")
    (tmp_path / "10_toy" / "bad2.png").write_bytes(b"x")
    result = check(request(tmp_path))
    assert result.exit_code() == 3
    assert len(result.images) == 3
    found = json.loads(json.dumps(result.to_json()))
    assert found["errors"] == 1
    assert found["findings"][0]["kind"] == "unreadable"


def test_strict_makes_warnings_count(tmp_path):
    write_set(tmp_path / "10_toy", 3)
    result = check(request(tmp_path))
    assert (result.exit_code(), result.exit_code(strict=True)) == (0, 3)


def test_the_sheet_shows_every_image_and_runs_nothing(tmp_path):
    paths = write_set(tmp_path / "10_toy", 3)
    paths[0].with_suffix(".txt").write_text(HOSTILE)
    picture(8, (300, 40)).save(tmp_path / "10_toy" / "wide <b>.png")
    result = check(request(tmp_path), tmp_path / "thumbs")
    write_sheet(result, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg;base64,/9j/') == 4
    assert page.count("<script") == 1, "the page's own"
    assert f"<script>{page_script()}</script>" in page
    assert "unsafe" not in page.split("</head>")[0]
    assert "<b>" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "&lt;script&gt;" in page
    assert 'class="cut"' in page
    assert page.count("#cut-") == page.count('id="cut-')


def test_the_table_names_level_text_and_fix(tmp_path):
    write_set(tmp_path / "10_toy", 3)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(render(check(request(tmp_path))))
        output = console.export_text()
    assert "3 images is few" in output
    assert "30 to 100 well described ones" in output


def test_the_sheet_is_in_both_languages(tmp_path):
    """What was found is translated, captions and names are not."""
    folder = tmp_path / "10_toy"
    write_set(folder, 3)
    (folder / "img001.txt").write_text("warning")
    (folder / "broken.png").write_bytes(b"x")
    write_sheet(check(request(folder), tmp_path / "thumbs"), tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert '<span class="t" lang="ar">ما عُثر عليه</span>' in page
    assert "3</bdi> صور" in page
    assert "ليست بصيغة صورة معروفة" in page
    assert '<div class="caption" dir="auto">warning</div>' in page

"""The contact sheet in a real Chromium, judged by axe-core.

TENNER_CHROMIUM names the browser; without it one on the PATH is taken.
"""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pictures import picture, write_set

from tenner.dataset import DatasetRequest
from tenner.dataset.check import check
from tenner.dataset.sheet import write_sheet

CHROMIUM = os.environ.get("TENNER_CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Odd shapes, a name without breaks, captions of other scripts and of markup."""
    root = tmp_path_factory.mktemp("sheet")
    folder = root / "10_toy"
    write_set(folder, 5)
    (folder / "img001.txt").write_text("قطة تجلس على السور, a sks toy")
    (folder / "img002.txt").write_text("<script>document.title = 'run'</script>" + "w" * 300)
    picture(9, (400, 40)).save(folder / f"{'long' * 40}.png")
    picture(10, (40, 400)).save(folder / "tall.png")
    (folder / "broken.png").write_bytes(b"x")
    request = DatasetRequest(
        source=str(folder), resolution=(64, 64), min_bucket_reso=32, max_bucket_reso=128,
        bucket_reso_steps=8, num_workers=1,
    )  # fmt: skip
    write_sheet(check(request, root / "thumbs"), root / "sheet.html")
    return root / "sheet.html"


def load_all(page: Any) -> None:
    """Pictures below the fold are loaded when they are scrolled to; here at once."""
    page.evaluate("document.querySelectorAll('img').forEach(img => img.loading = 'eager')")
    page.wait_for_function("[...document.images].every(img => img.complete && img.naturalWidth)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_asks_for_nothing_and_passes_axe(
    browser: Any, sheet: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page, requests = context.new_page(), []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(sheet.as_uri())
    assert page.title() == "Dataset contact sheet"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [url for url in requests if not url.startswith("data:")] == [sheet.as_uri()]
    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    page.evaluate(Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(found => found.violations)")
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    load_all(page)
    if folder := os.environ.get("TENNER_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/sheet-{width}-{scheme}.png", full_page=True)
    context.close()


def test_the_frame_lies_on_what_is_kept(browser: Any, sheet: Path) -> None:
    page = browser.new_context(viewport={"width": 390, "height": 900}).new_page()
    page.goto(sheet.as_uri())
    load_all(page)
    shares = page.evaluate(
        """() => [...document.querySelectorAll(".frame")].map(frame => {
            const picture = frame.querySelector("img").getBoundingClientRect();
            const cut = (frame.querySelector(".cut") || frame).getBoundingClientRect();
            const inside = cut.left >= picture.left - 1 && cut.right <= picture.right + 1
                && cut.top >= picture.top - 1 && cut.bottom <= picture.bottom + 1;
            return [inside, cut.width * cut.height / (picture.width * picture.height)];
        })"""
    )
    assert len(shares) == 7
    assert all(inside for inside, _ in shares)
    assert min(share for _, share in shares) < 0.5 < max(share for _, share in shares) <= 1.01

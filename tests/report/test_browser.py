"""The page in a real Chromium. Opt-in: TENNER_CHROMIUM names the browser, TENNER_AXE axe.min.js.

The axe-core test needs the second; all need the Python package playwright.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenner.report import ReportFacts, write_report

CHROMIUM, AXE = os.environ.get("TENNER_CHROMIUM"), os.environ.get("TENNER_AXE")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="TENNER_CHROMIUM names no browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page_file(facts: ReportFacts, tmp_path: Path) -> str:
    return write_report(facts, tmp_path / "report.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-US", "ar-EG"])
@pytest.mark.parametrize("width", [390, 820, 1440])
def test_fits_speaks_the_browsers_language_and_passes_axe(
    browser: Any, page_file: str, width: int, locale: str, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        locale=locale,
        color_scheme=scheme,
        bypass_csp=bool(AXE),
    )
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file)
    assert page.evaluate("document.documentElement.lang") == locale[:2]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [url for url in asked if not url.startswith("data:")] == [page_file]
    if AXE:
        page.evaluate(Path(AXE).read_text(encoding="utf-8"))
        violations = page.evaluate("axe.run().then(found => found.violations)")
        assert not [(each["id"], each["nodes"][0]["html"]) for each in violations]
    context.close()


def test_own_script_runs_under_the_policy_and_no_other(browser: Any, page_file: str) -> None:
    page = browser.new_context(locale="ar").new_page()
    page.goto(page_file)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("[document.documentElement.lang, document.documentElement.dir]") == [
        "en",
        "ltr",
    ]
    page.hover("#plot")
    assert " · 0." in (page.text_content("#plot-told") or "")
    page.evaluate(
        "() => { const bad = document.createElement('script');"
        "bad.textContent = 'window.bad = 1'; document.body.append(bad); }"
    )
    assert page.evaluate("window.bad") is None
    page.context.close()


def test_a_hostile_caption_runs_nothing(browser: Any, facts: ReportFacts, tmp_path: Path) -> None:
    hostile = "</script><script>window.bad = 1</script><img src=x onerror='window.bad = 1'>"
    path = write_report(replace(facts, name=hostile, trigger=hostile), tmp_path / "r.html")
    page = browser.new_context(bypass_csp=True).new_page()
    page.goto(path.as_uri())
    assert page.evaluate("window.bad") is None
    assert page.text_content("h1") == hostile
    page.context.close()

"""The page in a real Chromium, judged by axe-core.

TENNER_CHROMIUM names the browser; without it one on the PATH is taken, and where there is none
these tests are skipped (GitHub Actions names one, so there a missing browser is an error).
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tenner.core.run_dir import RunDir
from tenner.report.facts import ReportFacts
from tenner.report.images import PictureStore
from tenner.report.page import render_page, render_report
from tenner.serve.server import open_page, page_endpoint

CHROMIUM = os.environ.get("TENNER_CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium here")


def axe_core() -> str:
    """The script of axe-core, as the package brings it."""
    found = find_spec("axe_playwright_python")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")


def violations(page: Any) -> list[tuple[str, str]]:
    page.evaluate(axe_core())
    found = page.evaluate("axe.run().then(found => found.violations)")
    return [(each["id"], each["nodes"][0]["html"]) for each in found]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page_file(facts: ReportFacts, tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    path.write_text(render_report(facts), encoding="utf-8")
    return path.as_uri()


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
        bypass_csp=True,
    )
    page, requests = context.new_page(), []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file)
    assert page.evaluate("document.documentElement.lang") == locale[:2]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [url for url in requests if not url.startswith("data:")] == [page_file]
    assert violations(page) == []
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
    path = tmp_path / "r.html"
    page = render_report(replace(facts, name=hostile, trigger=hostile))
    path.write_text(page, encoding="utf-8")
    page = browser.new_context(bypass_csp=True).new_page()
    page.goto(path.as_uri())
    assert page.evaluate("window.bad") is None
    assert page.text_content("h1") == hostile
    page.context.close()


def write_run(run_dir: RunDir, facts: ReportFacts) -> None:
    page, live = render_page(facts, PictureStore())
    run_dir.report.write_text(page, encoding="utf-8")
    run_dir.live.write_text(live, encoding="utf-8")


def test_it_follows_a_run_by_itself_and_its_button_finishes_it(
    browser: Any, facts: ReportFacts, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run").create()
    training = replace(facts, state="training", step=100, files=(), lora_file="")
    write_run(run_dir, training)
    page = browser.new_context(locale="en-US").new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())
    with open_page(run_dir, page_endpoint("127.0.0.1", 0, (), None, {})) as endpoint:
        page.goto(endpoint.url.split("?")[0])
        assert "token" in page.text_content("body")
        page.goto(endpoint.url)
        page.wait_for_selector("#finish:visible")
        write_run(run_dir, replace(training, step=4321))
        page.wait_for_selector("text=4,321 / 5,000", timeout=10_000)
        page.hover("#plot")
        assert " · 0." in (page.text_content("#plot-told") or "")
        page.click("#finish button")
        page.wait_for_selector("text=will finish after this epoch", timeout=10_000)
        assert run_dir.stop_file.is_file()
        assert page.is_disabled("#finish button")
        write_run(run_dir, facts)
        page.wait_for_selector("text=Delivered and verified", timeout=15_000)
        assert page.locator("#finish").count() == 0
        assert page.locator("text=37.7 MB").count() == 1
    assert errors == []
    page.context.close()


def test_a_server_that_is_gone_is_reported(
    browser: Any, facts: ReportFacts, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run").create()
    write_run(run_dir, replace(facts, state="training"))
    page = browser.new_context(locale="ar").new_page()
    with open_page(run_dir, page_endpoint("127.0.0.1", 0, (), None, {})) as endpoint:
        page.goto(endpoint.url)
    page.wait_for_selector("#lost:visible", timeout=10_000)
    assert "لا يمكن الوصول" in page.inner_text("#lost")
    page.context.close()

"""Pages in a real Chromium: what a person with a phone, a tablet or a large screen would see.

TENNER_CHROMIUM names the browser; without it one on the PATH is taken.
"""

import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("TENNER_CHROMIUM") or shutil.which("chromium")
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
WIDTHS = (390, 820, 1440)

CUT = """() => {
  const found = [];
  for (const each of document.body.querySelectorAll("*")) {
    const style = getComputedStyle(each), box = each.getBoundingClientRect();
    if (each.closest(".skip") || !box.width || style.visibility === "hidden") continue;
    const name = each.tagName + "." + each.className + ": " + each.textContent.trim().slice(0, 60);
    const clips = style.overflowX !== "visible" && each.tagName !== "svg";
    if (clips && each.scrollWidth > each.clientWidth + 1) found.push("cut in " + name);
    const owns = [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const shown = owns || each.tagName === "IMG";
    if (shown && (box.left < -1 || box.right > innerWidth + 1)) found.push("out of sight " + name);
    if (each.tagName === "TH" || each.tagName === "TD" || owns)
      if (each.scrollWidth > each.clientWidth + 1 && style.display !== "inline" && each.clientWidth)
        found.push("overflows " + name);
  }
  return found;
}"""
"""Text and pictures that are cut off, scrolled away, or run over what stands beside them."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def opened(
    browser: Any, path: Path, *, width: int = 820, locale: str = "en-US", scheme: str = "light"
) -> Generator[Any]:
    """The page at `path`, every part of it unfolded; it may ask for nothing but itself."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        locale=locale,
        color_scheme=scheme,
        bypass_csp=True,
    )
    page, requests = context.new_page(), []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    page.evaluate("document.querySelectorAll('img').forEach((each) => (each.loading = 'eager'))")
    page.wait_for_function("[...document.images].every((each) => each.complete)")
    yield page
    if folder := os.environ.get("TENNER_SCREENSHOTS"):
        name = f"{path.stem}-{width}-{locale[:2]}-{scheme}.png"
        page.screenshot(path=f"{folder}/{name}", full_page=True)
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    context.close()


def faults(page: Any) -> list[str]:
    """What cannot be read or reached on this page: cut text, and what axe-core finds."""
    found: list[str] = page.evaluate(CUT)
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append("the page is wider than the window")
    page.evaluate(axe_core())
    violations = page.evaluate("axe.run().then(found => found.violations)")
    return [*found, *(f"{each['id']}: {each['nodes'][0]['html']}" for each in violations)]


def axe_core() -> str:
    """The script of axe-core, as the package brings it."""
    found = find_spec("axe_playwright_python")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")

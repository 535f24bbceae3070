"""The page of a batch in a real Chromium: nothing cut on a phone, in both languages."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.queue.record import JobRecord
from tenner.queue.summary import render_summary
from tenner.sample.job import SAMPLES_FILE, Cell, Sample, Samples
from tests.browsing import WIDTHS, browser, faults, needs_chromium, opened

__all__ = ["browser"]
pytestmark = needs_chromium

STRENGTHS = (0.0, 0.5, 0.7, 0.8, 1.0)


def swept_job(folder: Path, rate: float, dim: int, **known: Any) -> JobRecord:
    """A job of a sweep, with its pictures where it is delivered."""
    name = f"portrait_of_the_neighbours_dog-learning_rate-{rate:g}-network_dim-{dim}"
    run = RunDir(folder / name)
    if known["state"] == "delivered":
        drawn = run.samples / "final"
        drawn.mkdir(parents=True)
        Image.new("RGB", (64, 64), "teal").save(drawn / "a.png")
        cells = [
            Cell(prompt="a dog", strength=each, seed=seed, group="a dog")
            for seed in (1, 2)
            for each in STRENGTHS
        ]
        listed = tuple(Sample(cell=each, file="a.png", width=64, height=64) for each in cells)
        text = json.dumps(asdict(Samples(samples=listed)))
        (drawn / SAMPLES_FILE).write_text(text, encoding="utf-8")
        run.report.write_text("", encoding="utf-8")
    swept = {"learning_rate": rate, "network_dim": dim}
    return JobRecord(
        name=name, run=str(run.path), digest=name, swept=swept, num_steps=1200, **known
    )


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    destination = "s3://a-bucket/loras/portrait_of_the_neighbours_dog/a-long-folder-name"
    missing = msg("{name} is missing", name="/models/of/a/long/path/photographic.safetensors")
    done: dict[str, Any] = {
        "state": "delivered", "steps": 1200, "loss": 0.1, "seconds": 3725, "cost_usd": 0.31,
    }  # fmt: skip
    records = [
        swept_job(folder, 1e-4, 8, destinations=(destination,), **done),
        swept_job(folder, 1e-4, 32, destinations=(destination,), **done),
        swept_job(folder, 2e-4, 8, state="training", steps=400),
        swept_job(folder, 2e-4, 32, state="failed", problems=(missing,)),
        swept_job(folder, 4e-4, 8, state="waiting"),
    ]
    path = folder / "batch.html"
    path.write_text(render_summary(folder, "dog_sweep", records), encoding="utf-8")
    return path


@pytest.mark.parametrize(("locale", "scheme"), [("en-US", "light"), ("ar-EG", "dark")])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_and_axe_is_content(
    browser: Any, summary: Path, width: int, locale: str, scheme: str
) -> None:
    with opened(browser, summary, width=width, locale=locale, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.lang") == locale[:2]
        assert faults(page) == []


def test_rows_are_named_by_what_differs_and_no_taller_than_their_text(
    browser: Any, summary: Path
) -> None:
    with opened(browser, summary, width=390) as page:
        jobs = page.locator("table.jobs tbody tr")
        assert jobs.count() == 5
        assert "learning_rate 0.0001 network_dim 32" in " ".join(jobs.nth(1).inner_text().split())
        assert max(each.bounding_box()["height"] for each in jobs.all()) < 200
        rows = page.locator("table.grid tbody th").all_inner_texts()
        assert len(rows) == 2 * 2
        assert not [each for each in rows if "portrait" in each]


def test_a_batch_that_is_running_is_loaded_again_in_the_language_that_was_chosen(
    browser: Any, summary: Path, tmp_path: Path
) -> None:
    page_text = summary.read_text(encoding="utf-8")
    assert 'data-refresh="30"' in page_text, "jobs are left"
    quick = tmp_path / "batch.html"
    quick.write_text(page_text.replace('data-refresh="30"', 'data-refresh="1"'), encoding="utf-8")
    page = browser.new_context(locale="en-US").new_page()
    page.goto(quick.as_uri())
    page.click("#language")
    with page.expect_event("load", timeout=20_000):
        pass
    page.wait_for_function("document.documentElement.lang === 'ar'")
    page.context.close()

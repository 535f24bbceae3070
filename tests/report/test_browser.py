"""The page in a real Chromium, judged by axe-core.

Where there is no browser these tests are skipped (GitHub Actions names one, so there a missing
browser is an error).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenner.core.run_dir import RunDir
from tenner.report.facts import (
    ChoiceFact,
    DatasetImage,
    FileFact,
    LossCurve,
    ReportFacts,
    SampleImage,
    SampleSet,
    SettingFact,
    WeightsFact,
)
from tenner.report.images import PictureStore
from tenner.report.page import render_page, render_report
from tenner.serve.server import open_page, page_endpoint
from tests.browsing import WIDTHS, browser, faults, needs_chromium, opened

__all__ = ["browser"]
pytestmark = needs_chromium


@pytest.fixture
def page_file(facts: ReportFacts, tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    path.write_text(render_report(facts), encoding="utf-8")
    return path.as_uri()


def crowded(facts: ReportFacts) -> ReportFacts:
    """A run with long names, all strengths and several epochs: what has to fit on a phone."""
    assert facts.dataset is not None
    picture = facts.sample_sets[0].images[0].path
    columns = ("0 (base)", "0.5", "0.7", "0.8", "1.0")

    def drawn(epoch: int | None) -> SampleSet:
        images = tuple(
            SampleImage(
                path=picture, group=group, row=f"seed {seed}", column=column,
                strength=float(column.split()[0]), seed=seed, prompt=group,
            )
            for group in ("a photo of sks dog in a meadow, 85mm, golden hour", "x" * 120)
            for seed in (1,)
            for column in columns
        )  # fmt: skip
        return SampleSet(images=images, epoch=epoch, final=epoch is None)

    held = DatasetImage(
        path=picture, name="IMG_20240714_phone_of_me_with_the_dog.png", caption="w" * 90,
        is_held_out=True,
    )  # fmt: skip
    destination = "s3://a-bucket-with-a-long-name/loras/of/this/year/sks_dog"
    curve = LossCurve(
        steps=facts.curve.steps, losses=facts.curve.losses, epoch_ends=(2500, 5000),
        learning_rates={"unet": [1e-4] * 5000, "text_encoder": [5e-5] * 5000},
        validation=((0, 0.13), (2500, 0.11), (5000, 0.12)),
    )  # fmt: skip
    return replace(
        facts,
        name="portrait_of_the_neighbours_dog_version_twelve",
        lora_file="portrait_of_the_neighbours_dog_version_twelve.safetensors",
        curve=curve,
        sample_sets=tuple(drawn(epoch) for epoch in (2, 4, 6, 8, 10, 12, 14, None)),
        dataset=replace(facts.dataset, images=(held, *facts.dataset.images)),
        weights=(WeightsFact(part="text_encoder", num_modules=72, num_unchanged=0, ratio=0.0034),),
        files=tuple(
            FileFact(name=name, size_bytes=37_700_000, sha256="ab12cd34" * 8, where=destination)
            for name in ("portrait_of_the_neighbours_dog_version_twelve-000012.safetensors", "a")
        ),
        settings=(
            SettingFact(
                name="pretrained_model_name_or_path",
                value="/workspace/models/checkpoints/a-long-name/photographic.safetensors",
                source="/workspace/training_data/of/the/dog/tenner.toml",
            ),
            SettingFact(name="min_bucket_reso", value="256", source="default"),
        ),
        choices=(ChoiceFact(name="bucket sides", value="256 to 1024", reason="as set"),),
    )


@pytest.fixture
def crowded_page(facts: ReportFacts, tmp_path: Path) -> Path:
    path = tmp_path / "crowded.html"
    path.write_text(render_report(crowded(facts)), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-US", "ar-EG"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_it_speaks_the_browsers_language_and_passes_axe(
    browser: Any, crowded_page: Path, width: int, locale: str, scheme: str
) -> None:
    with opened(browser, crowded_page, width=width, locale=locale, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.lang") == locale[:2]
        assert faults(page) == []


def test_a_picture_is_shown_large_at_a_click(browser: Any, crowded_page: Path) -> None:
    with opened(browser, crowded_page, width=390) as page:
        small = page.locator(".grid img").first
        before = small.bounding_box()["width"]
        small.click()
        page.wait_for_selector("dialog[open]")
        assert page.locator("dialog img").bounding_box()["width"] > 3 * before
        assert "seed 1" in page.locator("dialog p").inner_text()
        assert faults(page) == []
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0


@pytest.mark.parametrize("key", ["Enter", " "])
def test_a_picture_is_shown_large_from_the_keyboard(
    browser: Any, crowded_page: Path, key: str
) -> None:
    with opened(browser, crowded_page, width=820) as page:
        first = page.locator(".grid img").first
        alt = first.get_attribute("alt")
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.querySelector('img')?.alt") == alt:
                break
        page.keyboard.press(key)
        page.wait_for_selector("dialog[open]")
        assert page.locator("dialog img").get_attribute("alt") == alt
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        assert page.evaluate("document.activeElement.querySelector('img')?.alt") == alt


def test_the_loras_name_is_a_link_to_the_file(
    browser: Any, facts: ReportFacts, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run").create()
    write_run(run_dir, facts)
    weights = run_dir.checkpoints / "my_lora.safetensors"
    weights.write_bytes(b"weights" * 50_000)
    page = browser.new_context(locale="en-US", accept_downloads=True).new_page()
    with open_page(run_dir, page_endpoint("127.0.0.1", 0, (), None, {})) as endpoint:
        page.goto(endpoint.url)
        with page.expect_download() as served:
            page.click("a.download")
        assert Path(served.value.path()).read_bytes() == weights.read_bytes()
        assert served.value.suggested_filename == "my_lora.safetensors"
    page.goto(run_dir.report.as_uri())
    link = page.locator("a.download").evaluate("each => each.href")
    assert link == weights.as_uri()
    page.context.close()


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
    assert " · 0." in (page.text_content("#plot-values") or "")
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
        assert " · 0." in (page.text_content("#plot-values") or "")
        page.click("#finish button")
        page.wait_for_selector("text=will finish after this epoch", timeout=10_000)
        assert run_dir.stop_file.is_file()
        assert page.is_disabled("#finish button")
        write_run(run_dir, facts)
        page.wait_for_selector("text=Delivered and verified", timeout=15_000)
        assert page.locator("#finish").count() == 0
        assert page.locator("text=37.7 MB").count() == 2  # above, and among the files
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

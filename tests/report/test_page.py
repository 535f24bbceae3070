"""The page of a run: whole, self-contained, and deaf to what captions try to say."""

import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tenner.families import FAMILIES
from tenner.report.facts import (
    ChoiceFact,
    ConceptFact,
    DatasetFacts,
    DatasetImage,
    FileFact,
    LossCurve,
    Notice,
    Pair,
    ReportFacts,
    SampleImage,
    SampleSet,
    SettingFact,
    TimingFact,
)
from tenner.report.loaders import loaders_of
from tenner.report.page import compare_epochs, render_report

HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}\u202e"


def noise_image(path: Path, seed: int) -> Path:
    """512 px that do not compress."""
    data = random.Random(seed).randbytes(3 * 512 * 512)
    Image.frombytes("RGB", (512, 512), data).save(path)
    return path


class Elements(HTMLParser):
    """All elements with their attributes, and the words between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_every_fact_is_reported(facts: ReportFacts) -> None:
    page = render_report(facts)
    reported = " ".join(" ".join(Elements(page).words).split())
    for word in ("my_lora", "sks star", "sd15", "5,000 / 5,000", "$0.83", "$10.00", "network_dim"):
        assert word in reported, word
    for word in ("fits", "RTX 4090", "replace them", "37.7 MB", "ab" * 32, "1 h 02 min", "0.25"):
        assert word in reported, word
    assert "The loss fell and then settled" in reported
    assert "<lora:my_lora:0.8>" in reported


def test_the_file_and_the_grid_stand_first_then_what_needs_attention_then_the_curve(
    facts: ReportFacts,
) -> None:
    def order(page: str) -> list[str]:
        headings = ("h-result", "h-samples", "h-warning", "h-next", "h-loss", "h-settings")
        return sorted(headings, key=lambda each: page.index(f'id="{each}"'))

    first = ["h-result", "h-samples", "h-warning", "h-next", "h-loss", "h-settings"]
    assert order(render_report(facts)) == first
    failed = replace(facts, state="failed")
    assert order(render_report(failed))[0] == "h-warning", "what went wrong stands above all"
    copy = Elements(render_report(replace(facts, state="trained")))
    (link,) = [each["href"] for each in copy.of("a") if each.get("class") == "download"]
    assert link == "./my_lora.safetensors", "the page that is delivered is beside the file"


def test_images_that_are_held_out_are_marked_and_shown_first(
    facts: ReportFacts, tmp_path: Path
) -> None:
    image = DatasetImage(path=noise_image(tmp_path / "h.png", 5), name="h.png", is_held_out=True)
    assert facts.dataset is not None
    dataset = replace(facts.dataset, images=(image, *facts.dataset.images))
    page = render_report(replace(facts, dataset=dataset))
    assert page.count('class="held"') == page.count('class="badge"') == 1
    assert 'class="held"' not in render_report(facts)


def test_terms_are_explained_where_they_stand(facts: ReportFacts) -> None:
    setting = SettingFact(name="min_bucket_reso", value="256", source="default")
    page = render_report(replace(facts, settings=(setting,)))
    row = page[page.index("<bdi>min_bucket_reso</bdi>") :].split("</tr>")[0]
    assert "the shortest side that an image is trained at, in pixels" in row
    assert "middle 80" not in page


def test_errors_warnings_and_notes_stand_under_their_own_headings(facts: ReportFacts) -> None:
    notices = (
        Notice(text="corrected a name", level="note"),
        Notice(text="small images"),
        Notice(text="out of disk", level="error"),
    )
    reported = " ".join(Elements(render_report(replace(facts, notices=notices))).words)
    order = ("What went wrong", "out of disk", "Warnings", "small images", "Worth knowing")
    positions = [reported.index(each) for each in (*order, "corrected a name")]
    assert positions == sorted(positions)
    calm = render_report(replace(facts, notices=notices[:1]))
    assert "Warnings" not in calm
    requested = render_report(replace(facts, notices=notices, state="stopped"))
    assert "Why it ended" in requested
    assert "What went wrong" not in requested


def test_notices_that_differ_in_numbers_alone_are_reported_once(facts: ReportFacts) -> None:
    notices = [Notice(text=f"the loss of step {n} is not finite") for n in range(3, 11)]
    notices.append(Notice(text="the card is hot"))
    reported = " ".join(Elements(render_report(replace(facts, notices=tuple(notices)))).words)
    assert "step 10" in reported
    assert "step 9" not in reported
    assert "8  times" in reported


def test_settings_that_somebody_set_stand_before_the_usual_ones(facts: ReportFacts) -> None:
    both = (
        SettingFact(name="clip_skip", value="2", source="default"),
        SettingFact(name="network_dim", value="8", source="--network_dim"),
    )
    reported = " ".join(Elements(render_report(replace(facts, settings=both))).words)
    assert (
        reported.index("network_dim")
        < reported.index("Those that nobody set")
        < reported.index("clip_skip")
    )


def test_a_base_of_one_file_is_loaded_as_one(facts: ReportFacts) -> None:
    pipeline = FAMILIES["sdxl"].drawing.pipeline
    loaders = replace(facts.loaders, pipeline=pipeline)
    one = replace(facts, base_name="photo.safetensors", base_is_file=True, loaders=loaders)
    assert "StableDiffusionXLPipeline.from_single_file(" in render_report(one)
    assert "AutoPipelineForText2Image.from_pretrained(" in render_report(facts)


@pytest.mark.parametrize(
    ("family", "module", "programs"),
    [
        ("sdxl", None, ["AUTOMATIC1111, Forge", "ComfyUI", "diffusers"]),
        ("sd35-large", None, ["Forge", "ComfyUI"]),
        ("hunyuan-image", None, ["ComfyUI"]),
        ("lumina2", None, ["ComfyUI"]),
        ("anima", None, ["ComfyUI"]),
        ("flux", None, ["Forge", "ComfyUI", "diffusers"]),
        ("chroma", "lycoris.kohya", ["Forge", "ComfyUI"]),
        ("sd1", "networks.oft", ["AUTOMATIC1111"]),
    ],
)
def test_only_programs_that_load_the_weights_are_explained(
    facts: ReportFacts, family: str, module: str | None, programs: list[str]
) -> None:
    loaders = loaders_of(FAMILIES[family], module, ())
    page = render_report(replace(facts, loaders=loaders))
    explained = page.split("How to use the LoRA")[1].split("</details>")[0]
    assert re.findall(r"<h4>(.*?)</h4>", explained) == programs
    assert ("convert_hunyuan_image_lora_to_comfy.py" in explained) == (family == "hunyuan-image")
    assert ("load_lora_weights" in page) == ("diffusers" in programs)


def test_what_comfyui_leaves_out_is_told_beside_it(facts: ReportFacts) -> None:
    loaders = loaders_of(FAMILIES["chroma"], None, ("train_t5xxl=True",), trains_text=True)
    assert "does not load what is trained of Chroma&#39;s T5" in render_report(
        replace(facts, loaders=loaders)
    )


def test_epochs_stand_side_by_side_at_the_strength_that_all_have(
    facts: ReportFacts, tmp_path: Path
) -> None:
    def drawn(epoch: int | None, *strengths: float) -> SampleSet:
        images = tuple(
            SampleImage(
                path=tmp_path / "s.png", group="a star", row="seed 1", column=f"{strength}",
                strength=strength,
            )
            for strength in strengths
        )  # fmt: skip
        return SampleSet(images=images, epoch=epoch, final=epoch is None)

    sets = (drawn(2, 0, 0.8), drawn(4, 0, 0.8), drawn(None, 0, 0.5, 0.8, 1.0))
    (compared,) = compare_epochs(sets)
    assert compared.strength == "0.8"
    assert compared.table.columns == ("epoch 2", "epoch 4", "the finished LoRA")
    assert compare_epochs(sets[:1]) == []
    assert compare_epochs((drawn(2, 0), drawn(4, 0.8))) == []
    page = render_report(replace(facts, sample_sets=sets))
    assert "Epochs side by side" in page
    assert "العصور جنبًا إلى جنب" in page


def test_nothing_is_fetched(facts: ReportFacts) -> None:
    elements = Elements(render_report(facts))
    assert not elements.of("link")
    assert all((each["src"] or "").startswith("data:image/") for each in elements.of("img"))
    assert all("src" not in each for each in elements.of("script"))
    links = [each["href"] or "" for each in elements.of("a")]
    assert [each for each in links if not each.startswith("#")] == [
        "./checkpoints/my_lora.safetensors"
    ]
    policy = elements.of("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_hostile_words_stay_words(facts: ReportFacts, tmp_path: Path) -> None:
    clean = Elements(render_report(facts))
    picture = SampleImage(
        path=tmp_path / "s.png",
        group=HOSTILE,
        row=HOSTILE,
        column=HOSTILE,
        prompt=HOSTILE,
        negative_prompt=HOSTILE,
    )
    hostile = replace(
        facts,
        name=HOSTILE,
        state_detail=HOSTILE,
        trigger=HOSTILE,
        base_name=HOSTILE,
        base_licence=HOSTILE,
        engine=HOSTILE,
        version=HOSTILE,
        written_at=HOSTILE,
        lora_file=f"{HOSTILE}.safetensors",
        concept=(ConceptFact(name=HOSTILE, distance=1.0),),
        concept_definition=HOSTILE,
        sample_sets=(SampleSet(images=(picture,)),),
        dataset=DatasetFacts(
            num_images=1,
            num_captions=1,
            images=(DatasetImage(path=tmp_path / "l.png", name=HOSTILE, caption=HOSTILE),),
            facts=(Pair(name=HOSTILE, value=HOSTILE),),
        ),
        settings=(SettingFact(name=HOSTILE, value=HOSTILE, source=HOSTILE),),
        choices=(ChoiceFact(name=HOSTILE, value=HOSTILE, reason=HOSTILE),),
        machine=(Pair(name=HOSTILE, value=HOSTILE),),
        notices=(Notice(text=HOSTILE, fix=HOSTILE),),
        files=(FileFact(name=HOSTILE, size_bytes=1, sha256=HOSTILE, where=HOSTILE),),
        timings=(TimingFact(name=HOSTILE, seconds=1),),
        curve=replace(facts.curve, learning_rates={HOSTILE: [1e-4] * 5000}),
    )
    elements = Elements(render_report(hostile))
    assert len(elements.of("script")) == len(clean.of("script")) == 1
    assert len(elements.of("style")) == 1
    assert not [name for _, each in elements.found for name in each if name.startswith("on")]
    assert all((each["src"] or "").startswith("data:") for each in elements.of("img"))
    assert "49" not in "".join(word for word in elements.words if "{{" in word)


@pytest.mark.long
def test_a_long_run_with_many_pictures_stays_under_3_mb(facts: ReportFacts, tmp_path: Path) -> None:
    pictures = tuple(
        SampleImage(
            path=noise_image(tmp_path / f"{index}.png", index),
            group="g",
            row=str(index // 5),
            column=str(index % 5),
        )
        for index in range(50)
    )
    steps = range(1, 20_001)
    draw = random.Random(3)
    long = replace(
        facts,
        sample_sets=(SampleSet(images=pictures),),
        curve=LossCurve(
            steps=steps,
            losses=[draw.random() for _ in steps],
            learning_rates={"unet": [1e-4] * 20_000, "text_encoder": [5e-5] * 20_000},
            epoch_ends=range(10, 20_001, 10),
        ),
    )
    path = tmp_path / "report.html"
    path.write_text(render_report(long), encoding="utf-8")
    assert path.stat().st_size < 3_000_000


@pytest.mark.parametrize("language", ["en", "ar"])
def test_the_language_is_the_setting(facts: ReportFacts, language: str) -> None:
    page = render_report(replace(facts, language=language))
    direction = {"en": "ltr", "ar": "rtl"}[language]
    assert f'<html lang="{language}" dir="{direction}" data-language="{language}">' in page


def test_every_word_is_in_both_languages(facts: ReportFacts) -> None:
    elements = Elements(render_report(facts))
    shown = [each["lang"] for each in elements.of("span") if each.get("class") == "t"]
    assert shown.count("en") == shown.count("ar") > 30


@pytest.mark.parametrize(
    "losses", [(), (0.1,), (math.nan,) * 100, (0.1,) * 100, (0.0,) * 100, (1e9, 1e-9) * 50]
)
def test_any_curve_makes_a_page(facts: ReportFacts, losses: tuple[float, ...]) -> None:
    curve = LossCurve(steps=range(1, len(losses) + 1), losses=losses)
    page = render_report(replace(facts, curve=curve))
    points = " ".join(re.findall(r'points="([^"]*)"', page))
    assert "nan" not in points
    assert "inf" not in points


def test_a_loss_that_still_falls_has_not_ended_while_it_trains(facts: ReportFacts) -> None:
    draw = random.Random(1)
    losses = [0.3 - 0.2 * step / 5000 + 0.01 * draw.random() for step in range(5000)]
    falls = replace(facts, curve=LossCurve(steps=range(1, 5001), losses=losses))
    assert "the run ended before it settled" in render_report(falls)
    live = render_report(replace(falls, state="training"))
    assert "The loss is still falling." in live
    assert "the run ended before it settled" not in live


def test_an_empty_run_makes_a_page() -> None:
    assert "<h1>" in render_report(ReportFacts(name="x", state="failed"))


def test_missing_and_broken_pictures_are_reported(facts: ReportFacts, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n half")
    images = (SampleImage(path=broken), SampleImage(path=tmp_path / "none.png", column="b"))
    page = render_report(replace(facts, sample_sets=(SampleSet(images=images),)))
    assert page.count("no picture") == 2


def test_small_pictures_keep_their_pixels(facts: ReportFacts) -> None:
    images = Elements(render_report(facts)).of("img")
    hard = [each for each in images if each.get("class") == "hard"]
    assert {each["width"] for each in hard} == {"32"}
    assert all((each["src"] or "").startswith("data:image/png") for each in hard)


def test_series_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        LossCurve(steps=(1, 2), losses=(0.1,))

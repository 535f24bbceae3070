"""What is reported of trained weights: nothing learnt, too little, too much, lost in saving."""

from dataclasses import replace

import pytest

from tenner.core.errors import Problem
from tenner.lora_files.judgement import LEAST_RATIO, MOST_RATIO, Training, judge
from tenner.lora_files.measured import Measured, PartMeasure
from tenner.ui.translation import translated

UNET = PartMeasure(
    part="unet",
    num_modules=84,
    num_unchanged=0,
    num_measured=84,
    norm=3.0,
    num_on_base=84,
    base_norm=100.0,
    dtype="F16",
)
TEXT = replace(UNET, part="text_encoder", num_modules=12, num_measured=12, num_on_base=12)
USUAL = Training(optimizer="AdamW", rates={"unet": 1e-4, "text_encoder": 5e-5}, num_steps=100)


def zero(part: PartMeasure) -> PartMeasure:
    return replace(part, num_unchanged=part.num_modules, norm=0.0)


def output(*parts: PartMeasure, training: Training = USUAL) -> tuple[Problem, ...]:
    """Judgements, all of which the page has in Arabic too."""
    found = judge(Measured(parts=parts), training)
    for problem in found:
        assert translated(problem.text, "ar"), problem.text
        assert translated(problem.fix, "ar"), problem.fix
    return found


def test_a_usual_lora_is_left_alone() -> None:
    assert output(UNET, TEXT) == ()


def test_what_is_advised_of_an_ia3_fits_it() -> None:
    training = replace(USUAL, kind="ia3")
    (nothing,) = output(zero(UNET), zero(TEXT), training=training)
    assert "set learning_rate = 0.005" in nothing.fix
    (little,) = output(replace(UNET, norm=0.001), training=training)
    assert "learning_rate" in little.fix
    assert "network_alpha" not in little.fix


@pytest.mark.parametrize(
    ("training", "part", "cause", "fix"),
    [
        (replace(USUAL, rates={"unet": 0.0}), UNET, "its learning rate is 0", "1e-4"),
        (replace(USUAL, optimizer="Prodigy"), UNET, "with Prodigy", "learning_rate = 1 "),
        (replace(USUAL, optimizer="DAdaptAdam"), UNET, "with DAdaptAdam", "learning_rate = 1 "),
        (replace(USUAL, lost={"unet": 1.0}), UNET, "too small for fp16", "save_precision"),
        (USUAL, replace(UNET, lost=1.0), "too small for fp16", "save_precision"),
        (replace(USUAL, warmup_steps=100), UNET, "before its warm-up", "lr_warmup_steps"),
        (USUAL, UNET, "a learning rate of 0.0001 over 100 steps", "train longer"),
        (Training(), UNET, "no number was changed", "higher learning_rate"),
    ],
)
def test_a_lora_that_moved_nowhere_is_an_error_with_its_likely_cause(
    training: Training, part: PartMeasure, cause: str, fix: str
) -> None:
    (problem,) = output(zero(part), zero(TEXT), training=training)
    assert problem.level == "error"
    assert "learnt nothing: the update of all 96 modules is zero" in problem.text
    assert cause in problem.text
    assert fix in problem.fix
    assert ("--restart" in problem.fix) == bool(training.rates)


def test_a_continued_lora_that_is_still_its_start_is_an_error() -> None:
    start = replace(USUAL, started_from="start.safetensors")
    same = replace(UNET, num_unchanged=84, moved=0.0, start_norm=3.0)
    (problem,) = output(same, training=start)
    assert (problem.level, "none of its 84 modules changed" in problem.text) == ("error", True)


def test_one_part_that_did_not_move_is_an_error_for_the_unet_and_a_warning_for_text() -> None:
    assert [each.level for each in output(UNET, zero(TEXT))] == ["warning"]
    assert [each.level for each in output(zero(UNET), TEXT)] == ["error"]
    asked_for = replace(USUAL, rates={"unet": 1e-4, "text_encoder": 0.0})
    assert output(UNET, zero(TEXT), training=asked_for) == ()


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.5 * LEAST_RATIO, "too little to be seen"),
        (1.5 * LEAST_RATIO, ""),
        (0.9 * MOST_RATIO, ""),
        (1.1 * MOST_RATIO, "little of the base is left"),
    ],
)
def test_less_and_more_than_trained_loras_have_is_a_warning(ratio: float, text: str) -> None:
    found = output(replace(UNET, norm=100.0 * ratio))
    assert [each.level for each in found] == (["warning"] if text else [])
    assert all(text in each.text and each.fix for each in found)


def test_a_continued_lora_is_small_by_what_it_gained_and_large_by_all_it_has() -> None:
    little = replace(UNET, norm=3.0, moved=1e-4 * 100, start_norm=3.0)
    assert "too little" in output(little)[0].text
    much = replace(UNET, norm=70.0, moved=1.0, start_norm=69.5)
    assert "little of the base" in output(much)[0].text


def test_what_fp16_took_is_named_with_the_precision_that_keeps_it() -> None:
    (lost,) = output(UNET, training=replace(USUAL, lost={"unet": 0.3}))
    assert "saving in fp16 took 30%" in lost.text
    (tiny,) = output(replace(UNET, tiny_share=0.8))
    assert "80%" in tiny.text
    assert "smallest normal number of fp16" in tiny.text
    assert {each.fix for each in (lost, tiny)} == {"set save_precision = 'float' or 'bf16'"}


def test_a_part_that_does_not_fit_the_base_has_no_ratio_and_no_judgement_of_its_size() -> None:
    assert output(replace(UNET, num_on_base=80, norm=1e-9)) == ()

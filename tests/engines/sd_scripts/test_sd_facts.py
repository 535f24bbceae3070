"""Options of sd-scripts: known by name, type and choices; typos are reported with what was
meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenner.kohya import options as facts


def problem(name: str, value: object) -> str:
    checked = facts.check({name: value})
    assert not checked.values
    return "\n".join(str(each) for each in checked.problems)


def test_every_option_of_all_trainers_is_known() -> None:
    assert len(facts.options()) == 253
    of_sdxl = [each for each in facts.options().values() if each.is_of("sdxl_train_network.py")]
    of_sd = [each for each in facts.options().values() if each.is_of("train_network.py")]
    assert (len(of_sdxl), len(of_sd)) == (196, 193)


def test_scripts_have_choices_and_defaults_of_their_own() -> None:
    option = facts.options()["timestep_sampling"]
    assert "nextdit_shift" in (option.choices or ())
    flux, lumina = option.of("flux_train_network.py"), option.of("lumina_train_network.py")
    assert "nextdit_shift" not in flux.choices
    assert (flux.default, lumina.default) == ("sigma", "shift")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("keep_tokens", "4", 4),
        ("keep_tokens", 4.0, 4),
        ("flip_aug", "false", False),
        ("flip_aug", "1", True),
        ("min_snr_gamma", "5", 5.0),
        ("min_snr_gamma", 5, 5.0),
        ("loss_type", "huber", "huber"),
        ("resolution", 512, "512"),
        ("resolution", [512, 768], "512,768"),
        ("face_crop_aug_range", (2.0, 4.0), "2.0,4.0"),
        ("lr_decay_steps", "10%", 0.1),
        ("lr_decay_steps", "100", 100),
        ("lr_decay_steps", 0.25, 0.25),
        (
            "optimizer_args",
            "weight_decay=0.01 betas=0.9,0.99",
            ("weight_decay=0.01", "betas=0.9,0.99"),
        ),
        ("optimizer_args", ["weight_decay=0.01"], ("weight_decay=0.01",)),
        ("base_weights_multiplier", "0.5 1", (0.5, 1.0)),
        ("max_token_length", "225", 225),
    ],
)
def test_values_are_taken_in_the_spellings_people_use(
    name: str, value: object, expected: object
) -> None:
    checked = facts.check({name: value})
    assert checked.problems == ()
    assert checked.values[name] == expected
    assert type(checked.values[name]) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("keep_tokens", "four", "expected a number"),
        ("keep_tokens", 1.5, "expected a whole number"),
        ("keep_tokens", True, "not true or false"),
        ("min_snr_gamma", "0,5", "0.5"),
        ("min_snr_gamma", float("nan"), "finite"),
        ("flip_aug", "maybe", "true or false"),
        ("loss_type", "hubber", "did you mean huber?"),
        ("save_precision", "none", "expected one of float, fp16, bf16"),
        ("keep_tokens", [1, 2], "expected a whole number"),
        ("lr_decay_steps", "1.5", "whole steps"),
    ],
)
def test_wrong_values_are_reported_with_what_is_wanted(
    name: str, value: object, message: str
) -> None:
    assert message in problem(name, value)


def test_a_typo_in_a_name_is_reported_with_the_nearest_name() -> None:
    assert "did you mean min_snr_gamma?" in problem("min_snr_gama", 5)
    assert "did you mean flip_aug?" in problem("flip-aug", "true")
    assert "did you mean" not in problem("zzzzqqqq", 1)


@pytest.mark.parametrize("name", sorted(facts.OWNED))
def test_what_is_tenners_own_is_refused_with_the_way_to_do_it(name: str) -> None:
    assert name in facts.options()
    [found] = facts.check({name: "x"}).problems
    assert found.fix


def test_all_problems_are_reported_at_once() -> None:
    checked = facts.check({"keep_tokns": 1, "loss_type": "l3", "resume": "x", "flip_aug": True})
    assert len(checked.problems) == 3
    assert checked.values == {"flip_aug": True}


@given(name=st.sampled_from(sorted(facts.options())), value=st.text(max_size=30))
def test_any_text_is_taken_or_told_never_a_crash(name: str, value: str) -> None:
    checked = facts.check({name: value})
    assert bool(checked.values) != bool(checked.problems)

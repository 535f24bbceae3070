"""Hours and dollars of a plan, and what is over its limits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenner.core.errors import SettingsError
from tenner.core.family import Family
from tenner.families import FAMILIES
from tenner.hardware.prices import Price
from tenner.pipeline.preflight import Preflight, prepare
from tenner.planning.expectation import Expected, expected_choices, over_budget
from tenner.planning.length import Length
from tenner.planning.prepared import Prepared
from tenner.planning.speed import ERROR, STREAMED_GB_S, StepTime, drawn_from, picture_seconds
from tenner.settings import Settings, load_request
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.program import photos, sparse_base, tenner

LENGTH = Length(num_steps=1000, steps_per_epoch=100)


def expected(*, usd_per_hour: float = 1.0, kind: Any = "set") -> Expected:
    """An hour of training."""
    step = StepTime(seconds=3.6, is_measured=False, source="a test")
    price = Price(usd_per_hour=usd_per_hour, kind=kind, source="a test")
    return Expected(step=step, num_steps=1000, pictures_seconds=0, price=price)


def levels(settings: Settings, what: Expected) -> list[str]:
    return [problem.level for problem in over_budget(settings, what, LENGTH)]


@pytest.mark.parametrize(
    ("limits", "reported"),
    [
        ({}, []),
        ({"max_hours": 1.1}, []),
        ({"max_hours": 0.9}, ["warning"]),  # the estimate may be a quarter too slow
        ({"max_hours": 0.7}, ["error"]),
        ({"max_cost_usd": 0.9}, ["warning"]),
        ({"max_cost_usd": 0.5, "max_hours": 0.5}, ["error", "error"]),
    ],
)
def test_a_plan_is_refused_only_where_even_the_fast_end_is_over(
    limits: dict[str, float], reported: list[str]
) -> None:
    assert levels(Settings(**limits), expected()) == reported  # pyright: ignore[reportArgumentType]
    assert ERROR == 0.25


def test_a_price_out_of_the_book_only_warns_and_a_free_machine_never() -> None:
    tight = Settings(max_cost_usd=0.1)
    assert levels(tight, expected(kind="book")) == ["warning"]
    assert levels(tight, expected(kind="host")) == ["error"]
    assert levels(tight, expected(usd_per_hour=0)) == []


def test_what_would_fit_is_reported() -> None:
    (problem,) = over_budget(Settings(max_cost_usd=0.5), expected(), LENGTH)
    assert "this run takes about $1.00 at $1.00 an hour" in problem.text
    assert "max_train_epochs = 5 would fit" in problem.fix
    assert "--gpu all" in problem.fix
    (problem,) = over_budget(Settings(max_hours=0.05), expected(), LENGTH)
    assert "max_train_steps = 50 would fit" in problem.fix


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """A rented RTX 4090 with SD 1.5 on it."""
    env = install_smi(tmp_path, [card("NVIDIA GeForce RTX 4090", 24564, "550.54.14", "8.9")])
    return env | {"TENNER_MODELS_DIR": str(sparse_base(tmp_path / "models"))}


def test_the_plan_tells_time_and_cost_and_keeps_them(
    machine: dict[str, str], tmp_path: Path
) -> None:
    where = str(photos(tmp_path / "photos"))
    words = ("plan", where, "--engine", "native", "--price_per_hour", "0.69")
    done = tenner(*words, cwd=tmp_path, env=machine)
    assert done.returncode == 0, done.stderr
    assert "  batch size     4  (the guide's for RTX 4090; needs " in done.stdout
    assert "give or take 50%" in done.stdout, "no card has timed the built-in trainer"
    assert "($0.69 an hour, as you set it)" in done.stdout
    reported = json.loads(tenner(*words, "--json", cwd=tmp_path, env=machine).stdout)["expected"]
    assert reported["usd"] == pytest.approx(reported["seconds"] / 3600 * 0.69, abs=0.001)
    assert reported["training_seconds"] == pytest.approx(250 * reported["seconds_per_step"], abs=1)
    no_samples = tenner(*words, "--json", "--no_samples", cwd=tmp_path, env=machine)
    assert json.loads(no_samples.stdout)["expected"]["samples_seconds"] == 0


def test_a_run_over_its_budget_is_refused_before_it_starts(
    machine: dict[str, str], tmp_path: Path
) -> None:
    where = str(photos(tmp_path / "photos", 2))
    words = (where, "--engine", "native", "--max_train_steps", "100000")
    words += ("--price_per_hour", "0.69", "--max_cost_usd", "1")
    for command in ("plan", "train"):
        done = tenner(command, *words, cwd=tmp_path, env=machine)
        assert done.returncode == 2, done.stderr
        assert "error: max_cost_usd = 1, but this run takes about $" in done.stderr
        assert "would fit" in done.stderr
    assert not list((tmp_path / "output" / "my_lora").glob("checkpoints/*"))


def test_the_hosts_own_price_is_reckoned_with(machine: dict[str, str], tmp_path: Path) -> None:
    where = photos(tmp_path / "photos", 2)
    request = load_request(
        {"dataset": str(where), "engine": "native", "max_train_steps": "30000"}, {}
    )

    def look(usd_per_hour: float) -> Prepared:
        return prepare(
            request,
            machine,
            tmp_path / "view",
            host_price=Price(usd_per_hour=usd_per_hour, kind="host", provider="RunPod"),
            checks=Preflight(try_card=False),
        )

    prepared = look(0.5)
    assert prepared.plan.expected is not None
    assert prepared.plan.expected.usd == pytest.approx(prepared.plan.expected.seconds / 7200)
    with pytest.raises(SettingsError, match="max_cost_usd = 10, but this run takes about"):
        look(50.0)


@pytest.mark.parametrize(
    ("gpu", "value"),
    [
        ("RTX 3060", "weights streamed from memory"),
        ("RTX 4090", "weights in 8 bits"),
        ("RTX A6000", None),
    ],
)
def test_how_a_transformer_is_drawn_is_shown(gpu: str, value: str | None) -> None:
    run = replace(expected(), placement=drawn_from("flux", gpu))
    shown = [each.value for each in expected_choices(run) if each.name == "samples"]
    assert shown == ([] if value is None else [value])


def test_weights_that_are_streamed_take_longer() -> None:
    at_hand, streamed = (
        picture_seconds("flux", pixels=1024**2, gpu_name="RTX 3060", num_steps=28, is_streamed=each)
        for each in (False, True)
    )
    assert at_hand is not None
    assert streamed is not None
    copied = 28 * FAMILIES["flux"].transformer.parameters / 1e9 / STREAMED_GB_S
    assert streamed == pytest.approx(at_hand + copied)


def test_a_family_without_a_negative_prompt_is_drawn_in_half_the_time() -> None:
    def seconds(family: Family) -> float:
        found = picture_seconds(family, pixels=1024**2, gpu_name="RTX 4090", num_steps=10)
        assert found is not None
        return found

    assert (
        FAMILIES["flux"].transformer.forward_tflop == FAMILIES["chroma"].transformer.forward_tflop
    )
    assert seconds("flux") < 0.6 * seconds("chroma")

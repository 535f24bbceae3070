"""What `plan` reports of settings, dataset and limits, `check` reports too: on a machine with a
card.

A base that is here is read once.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tenner.pipeline import without_card
from tenner.pipeline.without_card import judge_without_card
from tenner.settings.resolve import load_request
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.program import photos, sparse_base, tenner

FLAGS = (
    ("--validation_split", "0.25", "--engine", "native", "--keep_tokens", "1"),
    ("--max_hours", "0.001", "--max_cost_usd", "0.01", "--price_per_hour", "0.4"),
    ("--max_cost_usd", "0.01", "--lr_warmup_steps", "500", "--max_train_steps", "20"),
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with pictures, a base and a card."""
    folder = tmp_path_factory.mktemp("machine")
    photos(folder / "photos", num_images=8)
    env = install_smi(folder, [card("NVIDIA GeForce RTX 4090", 24564, "550.54.15", "8.9")])
    models = sparse_base(folder / "models")
    return {**env, "TENNER_MODELS_DIR": str(models), "HOME": str(folder)}


def reported(command: str, machine: dict[str, str], flags: tuple[str, ...]) -> set[tuple[str, str]]:
    """Texts and levels: notices in the JSON where there is one, errors on stderr."""
    words = ("photos", "--base_model", "sd15", *flags, "--json")
    done = tenner(command, *words, cwd=Path(machine["HOME"]), env=machine)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    listed = found.get("findings" if command == "check" else "notices", [])
    errors = [line.partition(": ")[2] for line in done.stderr.splitlines() if "error: " in line]
    return {(each["level"], each["text"]) for each in listed} | {("error", each) for each in errors}


def named(flags: tuple[str, ...]) -> set[str]:
    """What the plan has to report of these flags."""
    if "--validation_split" in flags:
        return {"are held out", "keep_tokens"}
    return {"max_hours", "max_cost_usd"} if "--max_hours" in flags else {"max_cost_usd"}


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_what_plan_reports_check_reports_too(
    machine: dict[str, str], flags: tuple[str, ...]
) -> None:
    planned, checked = (reported(command, machine, flags) for command in ("plan", "check"))
    about = [key.removeprefix("--") for key in flags if key.startswith("--")]
    about = [*about, "are held out"]
    expected = {each for each in planned if any(word in each[1] for word in about)}
    assert {word for word in about if any(word in text for _, text in expected)} >= named(flags)
    assert expected <= checked


def test_a_base_that_is_here_is_read_once(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[str] = []
    read = without_card.find_local_base

    def counted(*words: Any, **named: Any) -> Any:
        times.append(words[0])
        return read(*words, **named)

    monkeypatch.setattr("tenner.pipeline.without_card.find_local_base", counted)
    monkeypatch.setattr("tenner.base.choice.find_local_base", counted)
    flags = {"dataset": "photos", "base_model": "sd15"}
    request = load_request(flags, {}, read_default_config=False)
    judged = judge_without_card(request, machine, machine=None)
    assert judged.base is not None
    assert times == ["sd15"]

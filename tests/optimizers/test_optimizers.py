"""The table of optimizers is what the packages take, and what their authors recommend is
reported."""

import importlib
import inspect
import sys
from pathlib import Path

import pytest

from tenner.core.errors import SettingsError
from tenner.optimizers import OPTIMIZERS, find_optimizer
from tenner.optimizers.trial import try_optimizer
from tenner.planning.length import Length
from tenner.planning.plan import warmup_steps
from tenner.settings import Request, Settings, load_request

CLASSES = {
    "AdamW": "torch.optim.AdamW",
    "Adam": "torch.optim.Adam",
    "SGD": "torch.optim.SGD",
    "ASGD": "torch.optim.ASGD",
    "Adadelta": "torch.optim.Adadelta",
    "Adagrad": "torch.optim.Adagrad",
    "Adamax": "torch.optim.Adamax",
    "NAdam": "torch.optim.NAdam",
    "RAdam": "torch.optim.RAdam",
    "RMSprop": "torch.optim.RMSprop",
    "Rprop": "torch.optim.Rprop",
    "Prodigy": "prodigyopt.Prodigy",
    "Lion": "lion_pytorch.Lion",
    "Adafactor": "transformers.optimization.Adafactor",
}


def asked(**flags: str) -> Request:
    return load_request(flags, {}, read_default_config=False)


@pytest.mark.parametrize("name", CLASSES)
def test_the_table_holds_arguments_of_the_package(name: str) -> None:
    module, _, kind = CLASSES[name].rpartition(".")
    taken = set(inspect.signature(getattr(importlib.import_module(module), kind)).parameters)
    optimizer = find_optimizer(name)
    assert optimizer
    assert set(optimizer.arguments) <= taken
    missing = taken - set(optimizer.arguments) - {"params", "lr"}
    assert missing <= {"cautious_factor", "fused", "decoupled_weight_decay"}  # of later versions


def test_each_has_its_own_name_and_takes_what_is_recommended() -> None:
    assert len({each.name.lower() for each in OPTIMIZERS}) == len(OPTIMIZERS)
    for each in OPTIMIZERS:
        assert {word.partition("=")[0] for word in each.recommended_args} <= set(each.arguments)


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "DAdaptLion"])
def test_one_that_finds_its_rate_gets_one_rate_and_no_schedule(name: str) -> None:
    request = asked(optimizer_type=name)
    settings = request.settings
    assert (settings.learning_rate, settings.lr_scheduler) == (1.0, "constant")
    assert settings.lr_warmup_steps == 0
    [note] = [each for each in request.notices if "as recommended" in each.text]
    assert "learning_rate = 1" in note.text


def test_a_presets_rates_are_of_its_own_optimizer() -> None:
    request = load_request(
        {"optimizer_type": "Prodigy"}, {}, preset="face-sd15", read_default_config=False
    )
    assert request.settings.learning_rate == 1.0
    assert request.settings.unet_lr is None


def test_what_is_set_stays() -> None:
    settings = asked(
        optimizer_type="Prodigy", learning_rate="0.5", optimizer_args="weight_decay=0.1"
    ).settings
    assert settings.learning_rate == 0.5
    assert settings.optimizer_args[0] == "weight_decay=0.1"
    assert sum(word.startswith("weight_decay") for word in settings.optimizer_args) == 1
    assert asked(optimizer_type="AdamW").settings.learning_rate == 1e-4


def test_adafactor_takes_the_runs_rate_in_both_trainers() -> None:
    assert "relative_step=False" in asked(optimizer_type="Adafactor").settings.optimizer_args


def test_all_that_is_wrong_is_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        asked(
            optimizer_type="AdamW",
            optimizer_args="learning_rate=3e-4 weight_decay=0.5,",
            network_dim="99999",
            resolution="7",
            alpha_color="blurple",
            max_train_epochs="1000000000000",
            clip_skip="99",
            output_name="a:b",
        )
    reported = "\n".join(each.text for each in caught.value.problems)
    for word in (
        *("learning_rate is a setting of its own", "weight_decay=(0.5,)", "network_dim"),
        *("resolution", "alpha_color", "max_train_epochs", "clip_skip", "output_name"),
    ):
        assert word in reported
    assert all(each.fix for each in caught.value.problems)


def test_the_optimizer_itself_is_asked_what_the_table_cannot_tell() -> None:
    python = Path(sys.executable)
    assert try_optimizer(python, "AdamW", {"betas": (0.9, 0.99)}, [1e-4, 5e-5]) == ()
    [problem] = try_optimizer(python, "AdamW", {"betas": (0.9, 2)}, [1e-4])
    assert "beta" in problem.text
    [problem] = try_optimizer(python, "Prodigy", {}, [1.0, 0.5])
    assert "different lr" in problem.text
    assert try_optimizer(Path("/no/such/python"), "AdamW", {"betas": (0.9, 2)}, [1e-4]) == ()


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"),
    [(500, 20, 2), (20, 20, 2), (19, 20, 19), (0, 20, 0), (None, 20, 2), (0.5, 20, 10)],
)
def test_a_warm_up_longer_than_the_run_is_shortened_and_reported(
    warmup: float | None, steps: int, expected: int
) -> None:
    settings = Settings.model_validate({"lr_warmup_steps": warmup})
    found, problems = warmup_steps(settings, Length(num_steps=steps, steps_per_epoch=steps))
    assert found == expected
    assert bool(problems) == (warmup in (500, 20))

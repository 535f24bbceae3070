"""Whatever is set: `plan` and the start of `train` say the same, errors and warnings."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tenner.cli.plan import print_plan
from tenner.core.errors import SettingsError, TennerError
from tenner.pipeline import run as pipeline
from tenner.planning.prepared import Prepared
from tenner.settings import Request, load_request
from tenner.ui.screen import make_screen

Said = list[tuple[str, str, str]]

VALUES: Mapping[str, tuple[str, ...]] = {
    "optimizer_type": ("AdamW", "Prodigy", "Lion", "AdamW8bit", "Adafactor", "Foo", "DAdaptAdam"),
    "learning_rate": ("1", "1e-4", "0.2", "3e-4"),
    "unet_lr": ("1", "1e-4", "0"),
    "text_encoder_lr": ("0", "1", "5e-5"),
    "lr_scheduler": ("constant", "cosine"),
    "lr_warmup_steps": ("0", "500", "0.1"),
    "network_train_unet_only": ("true", "false"),
    "network_train_text_encoder_only": ("true",),
    "network_args": ("algo=locon", "conv_dim=4", "loraplus_lr_ratio=4", "rank_dropout=0.1"),
    "conv_dim": ("4",),
    "conv_alpha": ("1",),
    "scale_weight_norms": ("1",),
    "secondary_separator": (";;;",),
    "zero_terminal_snr": ("true",),
    "v_parameterization": ("false",),
    "keep_tokens": ("1",),
    "shuffle_caption": ("true",),
    "prior_loss_weight": ("0.5",),
    "cache_text_encoder_outputs": ("true",),
    "masked_loss": ("true",),
    "alpha_mask": ("true",),
    "min_timestep": ("1000", "10"),
    "clip_skip": ("2", "13"),
    "adaptive_noise_scale": ("0.1",),
    "noise_offset": ("0.05",),
    "full_bf16": ("true",),
    "validation_split": ("0.25",),
    "max_train_steps": ("3", "40"),
    "batch_size": ("1", "4"),
    "sample_at_epochs": ("0", "1"),
}


@st.composite
def flags(draw: st.DrawFn) -> dict[str, str]:
    """A few settings at random."""
    keys = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=5, unique=True))
    return {key: draw(st.sampled_from(VALUES[key])) for key in keys}


class Started(BaseException):
    """The run would begin now."""


@dataclass
class Place:
    pictures: Path
    output: Path
    runs: int = 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("agree")
    pictures = folder / "4_zwx"
    pictures.mkdir()
    numbers = random.Random(1)
    for index in range(4):
        picture = Image.frombytes("RGB", (64, 64), numbers.randbytes(64 * 64 * 3))
        picture.save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text(f"zwx, thing {index}", encoding="utf-8")
    return Place(pictures=pictures, output=folder / "output")


def said(error: TennerError) -> Said:
    """What an error says; a plan's note about other machines is not of this run."""
    return sorted((each.level, each.text, each.fix) for each in error.problems)


def of_plan(request: Request, capsys: pytest.CaptureFixture[str]) -> Said:
    try:
        print_plan(request, {}, as_json=True)
    except TennerError as error:
        return said(error)
    found = json.loads(capsys.readouterr().out)["notices"]
    return sorted((each["level"], each["text"], each["fix"]) for each in found)


def of_train(request: Request, monkeypatch: pytest.MonkeyPatch) -> Said:
    reached: list[Said] = []

    def stop_here(prepared: Prepared, *_: object, **__: object) -> None:
        notices = prepared.plan.notices
        reached.append(sorted((each.level, each.text, each.fix) for each in notices))
        raise Started

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "begin_attempt", stop_here)
        try:
            pipeline.run(request, {}, make_screen())
        except Started:
            return reached[0]
        except TennerError as error:
            return said(error)
    raise AssertionError("the run neither began nor was refused")


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(drawn=flags())
def test_plan_and_the_start_of_train_say_the_same(
    drawn: dict[str, str],
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.runs += 1
    wanted = {
        "dataset": str(place.pictures),
        "base_model": "tiny",
        "device": "cpu",
        "no_samples": "true",
        "output_dir": str(place.output / str(place.runs)),
        **drawn,
    }
    if "sample_at_epochs" in drawn:
        del wanted["no_samples"]
    try:
        request = load_request(wanted, {}, read_default_config=False)
    except SettingsError:  # both commands read their settings so
        return
    assert of_plan(request, capsys) == of_train(request, monkeypatch)

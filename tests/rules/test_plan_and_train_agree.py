"""Whatever is set: `plan` and the start of `train` say the same, errors and warnings.

But for what only decoded images tell: `plan` reads their heads, and says so.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from tenner.base.inspection import inspect_base
from tenner.base.tiny import base_dir
from tenner.cli.check import run_check
from tenner.cli.plan import print_plan
from tenner.core.errors import SettingsError, TennerError
from tenner.dataset.inspection import ONLY_HEADS
from tenner.kohya.options import OWNED, Option, options
from tenner.lora_files.base_modules import adaptable_modules
from tenner.optimizers import OPTIMIZERS
from tenner.pipeline import begin
from tenner.pipeline import run as pipeline
from tenner.planning.prepared import Prepared
from tenner.settings import Request, Settings, load_request
from tenner.ui.screen import make_screen
from tests.run.program import StandIn

Said = list[tuple[str, str, str]]

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "network_args": ("algo=locon", "conv_dim=4", "loraplus_lr_ratio=4", "rank_dropout=0.1", "x"),
    "optimizer_args": ("weight_decay=0.1", "weight_decay=0.5,", "learning_rate=3e-4", "betas=0.9"),
    "lr_scheduler_args": ("power=2", "a"),
    "optimizer_type": (*(each.name for each in OPTIMIZERS), "Foo", "torch.optim.AdamW"),
    "destinations": ("s3://", "ftp://a/b", "hf://user", "C:\\out"),
    "output_name": ("a/b", "star", "a:b"),
    "base_model_sha256": ("0" * 64, "x"),
    "dataset_sha256": ("0" * 64, "x"),
    "alpha_color": ("white", "#12345"),
    "sample_prompts": ("a cat", "a dog --w 64 --s 2", "nowhere.txt", "a --w x"),
    "caption_extension": (".txt", ".caption", "nothing"),
    "trigger": ("zwx", "other"),
    "resolution": ("64", "64,128", "512", "16"),
    "end_command": ("true",),
    "logging_dir": ("logs",),
    "reg_data_dir": ("REG", "nowhere"),
    "vae": ("nowhere", "NOTES"),
    "network_weights": ("nowhere", "NOTES", "LORA"),
    "learning_rate": ("0", "1", "1e-4", "0.2", "3e-4"),
    "unet_lr": ("0", "1", "1e-4"),
    "text_encoder_lr": ("0", "1", "5e-5", "1e-4 0"),
    "lr_warmup_steps": ("0", "500", "0.1", "0.99"),
    "min_timestep": ("1000", "10"),
    "batch_size": ("1", "4", "auto", "2000"),
    "num_processes": ("1", "2"),
    "sample_strengths": ("0", "1 -1"),
}
"""Settings that hold text or whose interesting values no bound tells. Words in capitals are files
of the test."""

RULED = frozenset(
    (
        *("optimizer_type", "learning_rate", "unet_lr", "text_encoder_lr", "optimizer_args"),
        *("network_train_unet_only", "network_train_text_encoder_only", "network_args"),
        *("conv_dim", "conv_alpha", "scale_weight_norms", "secondary_separator", "clip_skip"),
        *("zero_terminal_snr", "v_parameterization", "keep_tokens", "shuffle_caption"),
        *("prior_loss_weight", "cache_text_encoder_outputs", "masked_loss", "alpha_mask"),
        *("min_timestep", "max_timestep", "adaptive_noise_scale", "noise_offset", "full_bf16"),
        *("validation_split", "max_train_steps", "lr_warmup_steps", "network_weights"),
        *("scale_lr", "lr_batch_size"),
    )
)
"""Those that several rules look at together; drawn as often as all others."""

FIXED = frozenset(
    ("dataset", "base_model", "output_dir", "engine", "engine_options", "serve", "caption")
)
"""What a machine of the test decides, what no start before the training looks at, or what fetches
a model from the network."""


def values_of_setting(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Values at the ends of what a setting takes, and in its middle."""
    if "anyOf" in schema:
        return tuple(dict.fromkeys(v for each in schema["anyOf"] for v in values_of_setting(each)))
    if "enum" in schema or "const" in schema:
        return tuple(map(str, schema.get("enum", [schema.get("const")])))
    match schema.get("type"):
        case "boolean":
            return ("true", "false")
        case "integer" | "number":
            least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
            most = schema.get("maximum", 1000)
            whole = schema["type"] == "integer"
            inside = (1, 2, 5, 64) if whole else (0.1, 0.5, 1, 5)
            found = (least, *(each for each in inside if least < each < most), most)
            return tuple(f"{int(each)}" if whole else f"{each:g}" for each in found)
        case "array":
            return values_of_setting(schema.get("items", {}))
        case "string":
            return ("text",)
        case _:
            return ()


def values_of_option(option: Option) -> tuple[str, ...]:
    """Values that an option of sd-scripts takes."""
    if option.choices:
        return tuple(str(each) for each in option.choices if each is not None)
    return {
        "switch": ("true", "false"),
        "int": ("0", "1", "10"),
        "float": ("0", "0.1", "1"),
        "int_or_float": ("0", "0.1", "10"),
        "path": ("nowhere",),
        "str": ("text",),
    }[option.kind]


def all_values() -> dict[str, tuple[str, ...]]:
    """Every setting, and every option of sd-scripts that is none of ours."""
    settings_ = Settings.model_json_schema()["properties"]
    found = {name: values_of_setting(schema) for name, schema in settings_.items()}
    for name, option in options().items():
        if name not in found and name not in OWNED:
            found[name] = values_of_option(option)
    return {name: each for name, each in (found | dict(ARGUMENTS)).items() if name not in FIXED}


VALUES = all_values()


@st.composite
def flags(draw: st.DrawFn) -> dict[str, str]:
    """A few settings at random, among them those that the rules speak of more often."""
    of_rules = sorted(VALUES.keys() & RULED)
    names = st.one_of(st.sampled_from(of_rules), st.sampled_from(sorted(VALUES)))
    keys = draw(st.lists(names, max_size=6, unique=True))
    return {key: draw(st.sampled_from(VALUES[key])) for key in keys}


class Started(BaseException):
    """The run would begin now."""


@dataclass
class Place:
    """A machine with pictures. `words` name its trainer and its base."""

    folder: Path
    words: Mapping[str, str]
    environ: Mapping[str, str]
    runs: int = 0


def make_files(folder: Path) -> None:
    """Pictures, regularisation pictures, a LoRA of the tiny base, and what is no such thing."""
    numbers = random.Random(1)
    for name in ("pictures/4_zwx", "REG/1_thing"):
        pictures = folder / name
        pictures.mkdir(parents=True)
        for index in range(4):
            picture = Image.frombytes("RGB", (64, 64), numbers.randbytes(64 * 64 * 3))
            picture.save(pictures / f"{index}.png")
            (pictures / f"{index}.txt").write_text(f"zwx, thing {index}", encoding="utf-8")
    save_file({"weight": np.ones(2, "f4")}, folder / "NOTES")
    tensors: dict[str, np.ndarray] = {}
    for name, (out, inputs, *kernel) in adaptable_modules(
        inspect_base(base_dir(), name="tiny")
    ).items():
        tensors[f"{name}.alpha"] = np.array(2.0, "f4")
        tensors[f"{name}.lora_down.weight"] = np.ones((4, inputs, *kernel), "f4")
        tensors[f"{name}.lora_up.weight"] = np.ones((out, 4, *[1 for _ in kernel]), "f4")
    save_file(tensors, folder / "LORA")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """A machine for each trainer: a CPU with the tiny base, and a card with sd-scripts."""
    own = tmp_path_factory.mktemp("own")
    machine = StandIn(tmp_path_factory.mktemp("sd_scripts"))
    found = {
        "native": Place(own, {"base_model": "tiny", "device": "cpu"}, {}),
        "sd-scripts": Place(
            machine.folder,
            {"base_model": str(machine.base), "engine": "sd-scripts", "resolution": "512"},
            machine.environ,
        ),
    }
    for location in found.values():
        make_files(location.folder)
    return found


def is_of_machine(text: str) -> bool:
    """What only this machine's card (its batch among it), disk and installed programs decide, or
    what it costs."""
    words = (
        "sd-scripts at commit",
        "sd-scripts cannot be used",
        "GPU",
        " free",
        "memory",
        "max_cost_usd",
        "RunPod",
        "updates of the weights",
    )
    return any(word in text for word in (*words, "max_hours", "one image needs", "held out"))


def output(error: TennerError) -> Said:
    """What an error says."""
    return sorted((each.level, each.text, each.fix) for each in error.problems)


def of_plan(request: Request, remote: Place, capsys: pytest.CaptureFixture[str]) -> Said:
    try:
        print_plan(request, remote.environ, as_json=True)
    except TennerError as error:
        return output(error)
    found = json.loads(capsys.readouterr().out)["notices"]
    told = sorted((each["level"], each["text"], each["fix"]) for each in found)
    only_heads = (ONLY_HEADS.level, ONLY_HEADS.text, ONLY_HEADS.fix)
    assert told.count(only_heads) == 1
    return [each for each in told if each != only_heads]


def of_train(request: Request, remote: Place, monkeypatch: pytest.MonkeyPatch) -> Said:
    reached: list[Said] = []

    def stop_here(prepared: Prepared, *_: object, **__: object) -> None:
        notices = prepared.plan.notices
        reached.append(sorted((each.level, each.text, each.fix) for each in notices))
        raise Started

    with monkeypatch.context() as patched:
        patched.setattr(begin, "begin_attempt", stop_here)
        try:
            pipeline.run(request, remote.environ, make_screen())
        except Started:
            return reached[0]
        except TennerError as error:
            return output(error)
    raise AssertionError("the run neither began nor was refused")


def of_check(request: Request, remote: Place, capsys: pytest.CaptureFixture[str]) -> Said:
    """What `check` says, which resumes where the others end, and says more of the images."""
    try:
        run_check(request, remote.environ, as_json=True, strict=False, page=None)
    except TennerError as error:
        found = output(error)
    else:
        found = []
    out = capsys.readouterr().out
    reported = json.loads(out)["findings"] if out else []
    return sorted({*found, *((each["level"], each["text"], each["fix"]) for each in reported)})


def test_every_setting_is_drawn() -> None:
    assert set(Settings.model_fields) - FIXED <= VALUES.keys()
    assert set(options()) - set(OWNED) - FIXED <= VALUES.keys() | {"train_data_dir"}
    assert all(VALUES.values()), [name for name, each in VALUES.items() if not each]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trainer", ["native", "sd-scripts"])
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(drawn=flags())
def test_plan_and_the_start_of_train_report_the_same(
    trainer: str,
    drawn: dict[str, str],
    places: dict[str, Place],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    location = places[trainer]
    location.runs += 1
    monkeypatch.chdir(location.folder)
    words = {
        "dataset": "pictures",
        "no_samples": "true",
        "output_dir": str(location.folder / "output" / str(location.runs)),
        **location.words,
        **drawn,
    }
    if "sample_at_epochs" in drawn:
        del words["no_samples"]
    try:
        request = load_request(words, {}, read_default_config=False)
    except SettingsError:  # both commands read their settings so
        return
    planned = of_plan(request, location, capsys)
    assert planned == of_train(request, location, monkeypatch)
    checked = of_check(request, location, capsys)
    missing = [each for each in planned if each not in checked and not is_of_machine(each[1])]
    assert missing == []

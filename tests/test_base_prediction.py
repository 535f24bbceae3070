"""What a base predicts is read from all that says it, and reaches both trainers."""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from tenner.base import prediction
from tenner.base.choice import settle_prediction
from tenner.base.inspection import inspect_base
from tenner.base.tiny import base_dir
from tenner.base.tokenizers import open_clip_tokenizer, tokenizer_names, write_clip_tokenizers
from tenner.core.errors import SettingsError
from tenner.engines.choice import choose_engine
from tenner.engines.sd_scripts.arguments import arguments, translate
from tenner.settings import Settings
from tests.hardware.fake_smi import card, install_smi
from tests.hardware.program import TENSORS, photos, tenner

SD2 = {
    "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3],
    "cond_stage_model.model.ln_final.weight": [1024],
}


def checkpoint(
    path: Path,
    shapes: dict[str, list[int]] = TENSORS["sdxl"],
    metadata: dict[str, str] | None = None,
) -> Path:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    os.truncate(path, 8 + len(raw) + at)  # zeros, as a hole in the file
    return path


def modelspec(says: str) -> dict[str, str]:
    return {"modelspec.prediction_type": says}


@pytest.mark.parametrize(
    ("name", "shapes", "metadata", "says", "where", "snr"),
    [
        ("x", {}, modelspec("v"), "v_prediction", "metadata", False),
        ("x", {}, modelspec("epsilon"), "epsilon", "metadata", False),
        ("x", {"v_pred": [0]}, {}, "v_prediction", "tensor", False),
        ("x", {"v_pred": [0], "ztsnr": [0]}, {}, "v_prediction", "tensor", True),
        ("NoobAI-XL-Vpred-v1.0", {}, {}, "v_prediction", "name", True),
        ("noobaiXLNAIXL_vPred10Version", {}, {}, "v_prediction", "name", True),
        ("noobaiXLNAIXL_epsilonPred11Version", {}, {}, "epsilon", "name", False),
        ("some-merge_v-prediction", {}, {}, "v_prediction", "name", False),
        ("sd_xl_base_1.0", {}, {}, "epsilon", "name", False),
        ("previously_unknown", {}, {}, "epsilon", "", False),
    ],
)
def test_a_single_file_shows_what_it_predicts(
    tmp_path: Path,
    name: str,
    shapes: dict[str, list[int]],
    metadata: dict[str, str],
    says: str,
    where: str,
    snr: bool,
) -> None:
    path = checkpoint(tmp_path / f"{name}.safetensors", TENSORS["sdxl"] | shapes, metadata)
    base = inspect_base(path, name="base.safetensors")
    assert (base.prediction, base.zero_terminal_snr) == (says, snr)
    assert where in base.prediction_from
    assert bool(where) == bool(base.prediction_from)
    reported = [each.text for each in settle_prediction(Settings(), base).notices]
    assert bool(reported) == (not where)
    if reported:
        assert "assumed to predict noise" in reported[0]


def test_the_address_shows_it_too(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "model.safetensors")
    base = inspect_base(path, name="hf://Laxhar/noobai-XL-Vpred-1.0")
    assert (base.prediction, base.zero_terminal_snr) == ("v_prediction", True)


def test_a_known_file_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hashlib import sha256

    path = checkpoint(tmp_path / "renamed.safetensors")
    content = path.read_bytes()
    known = prediction.KnownPrediction(
        pattern=r"never\A",
        prediction="v_prediction",
        num_bytes=len(content),
        sha256=sha256(content).hexdigest(),
    )
    monkeypatch.setattr(prediction, "KNOWN_PREDICTIONS", (known,))
    base = inspect_base(path, name="x")
    assert (base.prediction, base.prediction_from) == ("v_prediction", "its hash")


def test_a_configuration_beside_the_file_counts(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "old.safetensors", SD2)
    assert inspect_base(path, name="x").prediction is None
    beside = path.with_suffix(".yaml")
    beside.write_text('model:\n  params:\n    parameterization: "v"\n    linear_start: 0.00085\n')
    base = inspect_base(path, name="x")
    assert (base.prediction, base.resolution) == ("v_prediction", 768)


def test_sd2_that_predicts_noise_is_trained_at_512(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x.safetensors", SD2)
    base = settle_prediction(Settings(v_parameterization=False), inspect_base(path, name="x"))
    assert (base.prediction, base.resolution) == ("epsilon", 512)


@pytest.mark.parametrize("mark", ["edm_vpred.sigma_max", "edm_mean"])
def test_edm_is_refused(tmp_path: Path, mark: str) -> None:
    path = checkpoint(tmp_path / "x.safetensors", TENSORS["sdxl"] | {mark: [1]})
    with pytest.raises(SettingsError, match="EDM"):
        inspect_base(path, name="x")


def machine(tmp_path: Path) -> dict[str, str]:
    photos(tmp_path / "photos", 4)
    return install_smi(tmp_path, [card("NVIDIA A100", 81920, "550.54.14", "8.0")])


def planned(tmp_path: Path, env: dict[str, str], base: Path, *words: str) -> tuple[int, Any]:
    job = ("photos", "--base_model", str(base), "--engine", "native", "--json", *words)
    done = tenner("plan", *job, cwd=tmp_path, env=env)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_a_contradiction_ends_the_run_and_the_users_word_settles_it(tmp_path: Path) -> None:
    env = machine(tmp_path)
    path = checkpoint(tmp_path / "noobai-vpred.safetensors", metadata=modelspec("epsilon"))
    code, output = planned(tmp_path, env, path)
    assert code == 2
    plain = " ".join(output.split())
    assert "according to its metadata (modelspec.prediction_type) it predicts noise" in plain
    assert "according to its name it predicts v" in plain
    code, plan = planned(tmp_path, env, path, "--v_parameterization", "true")
    assert code == 0, plan
    assert plan["options"]["v_parameterization"] is True
    assert plan["options"]["zero_terminal_snr"] is True
    assert any("as set" in each["text"] for each in plan["notices"])
    code, plan = planned(tmp_path, env, path, "--v_parameterization", "false")
    assert plan["options"]["v_parameterization"] is False
    assert plan["options"]["zero_terminal_snr"] is False


def test_a_base_that_predicts_v_reaches_the_plan_without_an_offset(tmp_path: Path) -> None:
    env = machine(tmp_path)
    path = checkpoint(tmp_path / "x.safetensors", TENSORS["sdxl"] | {"v_pred": [0], "ztsnr": [0]})
    code, plan = planned(tmp_path, env, path)
    assert code == 0, plan
    options = plan["options"]
    assert (options["v_parameterization"], options["zero_terminal_snr"]) == (True, True)
    assert "noise_offset" not in options
    code, output = planned(tmp_path, env, path, "--v_parameterization", "false")
    assert code == 2
    assert "according to its tensor v_pred" in " ".join(output.split())


@pytest.mark.parametrize("engine", ["native", "auto"])
def test_zero_terminal_snr_needs_v_in_both_trainers(tmp_path: Path, engine: str) -> None:
    env = machine(tmp_path)
    path = checkpoint(tmp_path / "x.safetensors")
    words = ("--zero_terminal_snr", "true", "--engine", engine)
    code, output = planned(tmp_path, env, path, *words)
    assert code == 2
    assert "noise cannot be predicted from noise" in " ".join(output.split())


@pytest.mark.parametrize(
    ("shapes", "family", "words", "expected"),
    [
        (TENSORS["sdxl"] | {"v_pred": [0], "ztsnr": [0]}, "sdxl", (), {"v", "snr"}),
        (TENSORS["sdxl"], "sdxl", (), set()),
        (TENSORS["sdxl"], "sdxl", ("--v_parameterization", "true"), {"v"}),
        (SD2, "sd2", ("--v_parameterization", "true"), {"v2", "v"}),
        (SD2, "sd2", ("--v_parameterization", "false"), {"v2"}),
    ],
)
def test_what_was_read_reaches_sd_scripts_arguments(
    tmp_path: Path,
    shapes: dict[str, list[int]],
    family: str,
    words: tuple[str, ...],
    expected: set[str],
) -> None:
    env = machine(tmp_path)
    path = checkpoint(tmp_path / "x.safetensors", shapes | {"rest": [2**29]})  # no tiny base
    code, plan = planned(tmp_path, env, path, *words)
    assert code == 0, plan
    given = arguments(translate(plan["options"], family=family))  # type: ignore[arg-type]
    names = {"--v_parameterization": "v", "--zero_terminal_snr": "snr", "--v2": "v2"}
    assert {names[word] for word in given if word in names} == expected
    sides = {"sdxl": ("2048", "32"), "sd2": ("1536", "64")}[family]
    if "false" in words:
        sides = ("1024", "64")  # of 512 pixels
    assert f"--max_bucket_reso={sides[0]}" in given
    assert f"--bucket_reso_steps={sides[1]}" in given


def folder_with(path: Path, **scheduler: object) -> Path:
    shutil.copytree(base_dir(), path)
    file = path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | scheduler))
    return path


def test_betas_that_sd_scripts_cannot_make_go_to_the_built_in_trainer(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "base", beta_schedule="linear", beta_end=0.02)
    base = inspect_base(path, name="x")
    assert str(base.betas) == "betas 0.00085 to 0.02, linear, 1000 steps"
    assert not base.betas.is_usual
    assert inspect_base(base_dir(), name="tiny").betas.is_usual
    chosen = choose_engine(Settings(), {}, other_noise=str(base.betas))
    assert chosen.name == "native"
    assert "cannot train the base's noise" in chosen.reason
    with pytest.raises(SettingsError, match=r"betas 0\.00085 to 0\.02"):
        choose_engine(Settings(engine="sd-scripts"), {}, other_noise=str(base.betas))


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"beta_start": "much"}, "make no sense"),
        ({"num_train_timesteps": 0}, "make no sense"),
        ({"prediction_type": "sample"}, "predicts 'sample'"),
        ({"prediction_type": "flow_prediction"}, "predicts 'flow_prediction'"),
    ],
)
def test_noise_that_no_trainer_knows_is_refused_at_once(
    tmp_path: Path, scheduler: dict[str, object], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        inspect_base(folder_with(tmp_path / "base", **scheduler), name="x")


def test_each_family_gets_its_own_tokenizers(tmp_path: Path) -> None:
    """SD 2.x's text encoder is OpenCLIP's, which pads with token 0; SD 1.x's pads with its end."""
    written = write_clip_tokenizers(tmp_path)
    pads = {
        family: [
            open_clip_tokenizer(written / name).pad_token_id for name in tokenizer_names(family)
        ]
        for family in ("sd1", "sd2", "sdxl")
    }
    assert pads == {"sd1": [49407], "sd2": [0], "sdxl": [49407, 0]}

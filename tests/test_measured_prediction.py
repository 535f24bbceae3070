"""What a base predicts, measured by its own outputs where it does not state it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenner.base.choice import ASSUMED
from tenner.base.tiny import base_dir, concept_dir
from tenner.pipeline.predicting import Measured, measure, measured_run, with_measured_prediction
from tenner.pipeline.preflight import prepare
from tenner.planning.prepared import Prepared
from tenner.settings import load_request
from tenner.supervision.supervise import stop_on_signals


def prepared(tmp_path: Path, base: str = "tiny", **settings: str) -> Prepared:
    job = {
        "base_model": base,
        "dataset": str(concept_dir()),
        "resolution": "64",
        "min_bucket_reso": "64",
        "device": "cpu",
        "engine": "native",
        **settings,
    }
    request = load_request(job, {}, read_default_config=False)
    workdir = tmp_path / "work"
    return prepare(request, {}, workdir)


def measured(tmp_path: Path, run: Prepared) -> Measured:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with stop_on_signals() as stop:
        found = measure(run, environ=environ, stop=stop)
    assert found is not None
    return found


def answers_noise(folder: Path) -> Path:
    """A base whose U-Net hands on what it sees, which at high noise is the noise.

    Channels go in as x and -x, past all blocks by the first skip, and out as
    silu(x) - silu(-x) = x.
    """
    shutil.copytree(base_dir(), folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}
    skip = "up_blocks.2.resnets.1.conv_shortcut.weight"
    own = weights[skip].shape[1] - 32
    for channel in range(4):
        for side, sign in enumerate((1.0, -1.0)):
            at = 2 * channel + side
            weights["conv_in.weight"][at, channel, 1, 1] = sign
            weights[skip][at, own + at, 0, 0] = 1.0
            weights["conv_out.weight"][channel, at, 1, 1] = sign
    weights["conv_norm_out.weight"].fill_(1.0)
    save_file(weights, file)
    return folder


def test_a_base_that_was_trained_on_v_is_known_by_its_answers(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    found = measured(tmp_path, run)
    assert found.prediction == "v_prediction"
    assert found.as_noise > 0.9  # near the variance of noise, which it does not answer
    assert found.as_v < found.nothing


def test_a_base_that_answers_noise_is_known_too(tmp_path: Path) -> None:
    run = prepared(tmp_path, str(answers_noise(tmp_path / "base")))
    found = measured(tmp_path, run)
    assert found.prediction == "epsilon"
    assert found.as_noise < 0.1


@pytest.mark.parametrize(
    ("as_noise", "as_v", "nothing", "says"),
    [
        (0.03, 1.6, 0.9, "epsilon"),
        (1.6, 0.5, 0.9, "v_prediction"),
        (1.0, 0.9, 0.9, None),  # answers nothing
        (1.9, 1.8, 0.9, None),  # answers something else
    ],
)
def test_neither_is_guessed(as_noise: float, as_v: float, nothing: float, says: str | None) -> None:
    assert Measured(as_noise=as_noise, as_v=as_v, nothing=nothing).prediction == says


def unknown_sdxl(run: Prepared) -> Prepared:
    """The run as one of an SDXL base that says nothing, on a card."""
    base = replace(
        run.base, family="sdxl", prediction="epsilon", prediction_from="", notices=(ASSUMED,)
    )
    plan = replace(run.plan, device="cuda", notices=(*run.plan.notices, ASSUMED))
    settings = run.request.settings.model_copy(update={"noise_offset": 0.0357})
    request = replace(run.request, settings=settings)
    return replace(run, base=base, plan=plan, request=request)


def test_the_plan_is_made_anew_with_what_was_measured(tmp_path: Path) -> None:
    run = unknown_sdxl(prepared(tmp_path))
    run = replace(run, plan=replace(run.plan, device="cpu"))  # memory is not in question here
    found = measured_run(run, Measured(as_noise=1.6, as_v=0.5, nothing=0.9))
    assert found.base.prediction == "v_prediction"
    assert found.plan.options.v_parameterization is True
    assert found.plan.options.noise_offset is None
    reported = [each.text for each in found.plan.notices]
    assert ASSUMED.text not in reported
    assert any("measured, it predicts v" in text for text in reported)


def test_it_is_measured_once_to_a_run_and_only_where_the_base_does_not_state_it(
    tmp_path: Path,
) -> None:
    run = unknown_sdxl(prepared(tmp_path))
    note = tmp_path / "prediction.json"
    note.write_text(json.dumps({"as_noise": 1.9, "as_v": 1.8, "nothing": 0.9}))
    messages: list[str] = []
    with stop_on_signals() as stop:

        def looked_at(each: Prepared) -> Prepared:
            return with_measured_prediction(
                each,
                note=note,
                environ={},
                stop=stop,
                report=lambda name, text: messages.append(text),
            )

        assert looked_at(run) is run  # undecided: as it was assumed
        assert messages == ["error as noise 1.90, as v 1.80"]
        for other in (
            replace(run, base=replace(run.base, prediction_from="its scheduler")),
            replace(run, base=replace(run.base, family="sd1")),
            replace(run, plan=replace(run.plan, device="cpu")),
        ):
            assert looked_at(other) is other
    assert len(messages) == 1

"""Other families and kinds of network through the whole program and the real sd-scripts, on a CPU.

Opt-in as `test_sd_real.py`. Transformers have smaller sizes (`shrunken.py`); SD 1.5 its own.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tenner.base.tiny import concept_dir
from tenner.lora_files import read_lora_file
from tests.engines.sd_scripts import shrunken
from tests.engines.sd_scripts.resuming import assert_resumed_as_if_never_cut
from tests.engines.sd_scripts.test_sd_real import LIGHT, events, sd15, train

__all__ = ["sd15"]
pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set"),
    pytest.mark.timeout(2400),
]
FEW = ("--max_train_steps", "2", "--batch_size", "1", "--lr_warmup_steps", "0")
DRAWN = (
    *(each for each in LIGHT if each != "--no_samples"),
    *("--sample_steps", "1", "--sample_seeds", "1", "--sample_prompts", "x --w 64 --h 64"),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    python, real = os.environ["TENNER_TRAINER_PYTHON"], os.environ["SD_SCRIPTS_DIR"]
    families = ("flux", "flux-schnell", "chroma", "sd3", "sd35-medium", "sd35-large", "anima")
    words = (python, shrunken.__file__, real, str(folder), *families)
    subprocess.run(words, check=True)
    return folder


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("flux1-dev.safetensors", "flux"),
        ("flux1-schnell.safetensors", "flux"),
        ("Chroma1-Base.safetensors", "chroma"),
        ("sd3_medium.safetensors", None),  # told from 3.5 Large by its width, which is smaller here
        ("sd3.5_medium.safetensors", "sd35-medium"),
        ("sd3.5_large.safetensors", None),
        ("anima-preview.safetensors", "anima"),
    ],
)
def test_it_trains_and_is_delivered(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    family: str | None,
) -> None:
    """The grid is drawn from the delivered file by the diffusers of the trainer's Python, that of
    Chroma and Anima by sd-scripts' own code."""
    real = Path(os.environ["SD_SCRIPTS_DIR"])
    small = shrunken.sd_scripts(tmp_path / "sd-scripts", real)
    monkeypatch.setenv("SD_SCRIPTS_DIR", str(small))
    given = ("--base_model", models / base, "--dataset", concept_dir(), *DRAWN, *FEW)
    run = train(tmp_path, *given)
    assert [each["step"] for each in events(run, "step")] == [1, 2]
    lora = read_lora_file(run / "delivered" / "my_lora.safetensors")
    assert lora.family == family
    assert (run / "samples" / "grid.png").is_file()
    assert not [each for each in events(run, "warning") if "LoRA modules" in each["text"]]


@pytest.mark.parametrize(
    ("base", "sent"),
    [
        ("flux1-dev.safetensors", signal.SIGKILL),
        ("flux1-schnell.safetensors", signal.SIGTERM),
        ("Chroma1-Base.safetensors", signal.SIGKILL),
        ("sd3_medium.safetensors", signal.SIGKILL),
        ("sd3.5_medium.safetensors", signal.SIGTERM),
        ("sd3.5_large.safetensors", signal.SIGKILL),
        ("anima-preview.safetensors", signal.SIGKILL),
    ],
)
def test_cut_off_and_resumed_it_is_the_run_that_never_was(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, sent: signal.Signals
) -> None:
    real = Path(os.environ["SD_SCRIPTS_DIR"])
    small = shrunken.sd_scripts(tmp_path / "sd-scripts", real)
    monkeypatch.setenv("SD_SCRIPTS_DIR", str(small))
    assert_resumed_as_if_never_cut(tmp_path, models / base, sent)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("loha", ("algo=loha",)),
        ("lokr", ("algo=lokr", "factor=4")),
        ("dora", ("algo=lora", "dora_wd=True")),
    ],
)
def test_kinds_of_lycoris_are_trained_recognised_and_continued(
    sd15: Path, tmp_path: Path, kind: str, arguments: tuple[str, ...]
) -> None:
    """The second run is told nothing of the network: all is read from the first one's file. It ends
    near it, which a network of other random numbers does not."""
    given = ("--base_model", sd15, "--dataset", concept_dir(), *LIGHT, *FEW)
    network = ("--network_module", "lycoris.kohya", "--network_args", *arguments)
    first, second = tmp_path / "first", tmp_path / "second"
    for each in (first, second):
        each.mkdir()
    run = train(first, *given, *network, "--learning_rate", "1e-3")
    file = run / "delivered" / "my_lora.safetensors"
    lora = read_lora_file(file)
    assert lora.kinds[0] == kind
    assert lora.family == "sd1"
    words = ("--engine", "sd-scripts", "--network_weights", file, "--learning_rate", "1e-5")
    continued = train(second, *given, *words)
    before, after = load_file(file), load_file(continued / "delivered" / file.name)
    assert before.keys() == after.keys()
    random = [
        name for name in before if name.endswith(("hada_w1_b", "lokr_w1", "lora_down.weight"))
    ]
    ends = [
        torch.cat([each[name].flatten().float() for name in random]) for each in (before, after)
    ]
    assert torch.nn.functional.cosine_similarity(*ends, dim=0) > 0.999
    assert any(not value.equal(after[name]) for name, value in before.items())
    (measured,) = events(continued, "weights")
    assert all(part["moved_ratio"] is not None for part in measured["parts"])

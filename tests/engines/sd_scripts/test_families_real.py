"""Other families and kinds of network through the whole program and the real sd-scripts, on a CPU.

Opt-in as `test_sd_real.py`. Transformers have smaller sizes (`shrunken.py`); SD 1.5 its own.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tenner.base.tiny import concept_dir
from tenner.lora_files import read_lora_file
from tests.engines.sd_scripts import shrunken
from tests.engines.sd_scripts.lycoris_runs import DRAWN, FEW, assert_trained_and_continued
from tests.engines.sd_scripts.resuming import assert_resumed_as_if_never_cut
from tests.engines.sd_scripts.test_sd_real import events, sd15, train

__all__ = ["sd15"]
pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set"),
    pytest.mark.timeout(2400),
]


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
        ("ia3", ("algo=ia3",)),
    ],
)
def test_kinds_of_lycoris_are_trained_recognised_and_continued(
    sd15: Path, tmp_path: Path, kind: str, arguments: tuple[str, ...]
) -> None:
    continued = assert_trained_and_continued(tmp_path, sd15, "sd1", kind, *arguments)
    (measured,) = events(continued, "weights")
    assert all(part["moved_ratio"] is not None for part in measured["parts"])


@pytest.mark.parametrize(
    ("base", "family", "kind", "arguments"),
    [
        ("Chroma1-Base.safetensors", "chroma", "loha", ("algo=loha",)),
        ("sd3.5_medium.safetensors", "sd35-medium", "dora", ("algo=lora", "dora_wd=True")),
    ],
)
def test_kinds_of_lycoris_over_transformers(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
    family: str,
    kind: str,
    arguments: tuple[str, ...],
) -> None:
    small = shrunken.sd_scripts(tmp_path / "sd-scripts", Path(os.environ["SD_SCRIPTS_DIR"]))
    monkeypatch.setenv("SD_SCRIPTS_DIR", str(small))
    assert_trained_and_continued(tmp_path, models / base, family, kind, *arguments)


def test_lycoris_over_anima_by_a_preset_of_ones_own(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LyCORIS' own presets name none of its blocks' classes, and are refused."""
    small = shrunken.sd_scripts(tmp_path / "sd-scripts", Path(os.environ["SD_SCRIPTS_DIR"]))
    monkeypatch.setenv("SD_SCRIPTS_DIR", str(small))
    preset = tmp_path / "blocks.toml"
    preset.write_text(
        'unet_target_module = ["Block"]\nunet_target_name = []\ntext_encoder_target_module = []\n'
    )
    base = models / "anima-preview.safetensors"
    words = ("algo=lokr", "factor=4", f"preset={preset}")
    again = ("--network_args", f"preset={preset}")
    run = assert_trained_and_continued(tmp_path, base, "anima", "lokr", *words, again=again)
    lora = read_lora_file(run / "delivered" / "my_lora.safetensors")
    assert {each.path.split("_")[0] for each in lora.modules} == {"blocks"}


def test_ia3_has_the_modules_of_its_preset_and_is_resumed(sd15: Path, tmp_path: Path) -> None:
    """LyCORIS' preset names keys, values and each MLP's last layer, whose inputs are scaled."""
    network = ("--network_module", "lycoris.kohya", "--network_args", "algo=ia3")
    assert_resumed_as_if_never_cut(tmp_path, sd15, signal.SIGKILL, *network)
    file = tmp_path / "whole" / "output" / "my_lora" / "delivered" / "my_lora.safetensors"
    lora, tensors = read_lora_file(file), load_file(file)
    assert {part: len(modules) for part, modules in lora.parts.items()} == {
        "unet": 16 * 5,
        "text_encoder": 12 * 3,
    }
    assert lora.num_incomplete == 0
    assert (lora.ranks(), lora.alphas()) == ((), ())
    for name in (each.name for each in lora.modules):
        of_mlp = name.endswith(("ff_net_2", "mlp_fc2"))
        assert bool(tensors[f"{name}.on_input"]) == of_mlp, name
    sizes = {"unet": 99_840, "text_encoder": 55_296}
    for part, modules in lora.parts.items():
        numbers = [tensors[f"{each.name}.weight"] for each in modules]
        assert sum(each.numel() for each in numbers) == sizes[part]
        assert all(each.any() for each in numbers)

"""Kinds of network against the sources that read their arguments: sd-scripts' and LyCORIS'."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tenner.families import FAMILIES
from tenner.kohya.networks import ALGORITHMS, LYCORIS, NETWORKS, PLAIN, PRESETS

pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set"),
]
_READ = re.compile(r"kwargs\.get\(\s*\"(\w+)\"")


def source(module: str) -> str:
    """The text of a network module, without importing it."""
    if module != LYCORIS:
        path = Path(os.environ["SD_SCRIPTS_DIR"], *module.split(".")).with_suffix(".py")
        return path.read_text(encoding="utf-8")
    return (lycoris() / "kohya.py").read_text(encoding="utf-8")


def lycoris() -> Path:
    code = "import importlib.util as u; print(u.find_spec('lycoris').submodule_search_locations[0])"
    python = os.environ["TENNER_TRAINER_PYTHON"]
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.mark.parametrize("module", [*NETWORKS, *PLAIN])
def test_the_arguments_of_a_kind_are_those_that_it_reads(module: str) -> None:
    known = NETWORKS[module].arguments if module in NETWORKS else PLAIN[module]
    apart = {"dropout"}  # networks.lora takes it as neuron_dropout, from the trainer
    if module in ("networks.lora_flux", "networks.lora_sd3"):
        apart |= {"conv_dim", "conv_alpha"}  # read, for transformers that have no convolutions
    assert set(known) - apart == set(_READ.findall(source(module))) - apart


def test_lycoris_has_these_algorithms_and_presets() -> None:
    wrapper = (lycoris() / "wrapper.py").read_text(encoding="utf-8")
    table = wrapper.split("network_module_dict = {")[1].split("}")[0]
    assert set(re.findall(r'"([\w-]+)":', table)) == set(ALGORITHMS)
    config = (lycoris() / "config.py").read_text(encoding="utf-8")
    assert all(f'"{name}"' in config for name in PRESETS)


def test_every_family_has_its_module() -> None:
    for family in FAMILIES.values():
        assert "def create_network(" in source(family.lora_module)

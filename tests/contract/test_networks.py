"""Kinds of network against the sources that read their arguments: sd-scripts' and LyCORIS'."""

import itertools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tenner.engines.sd_scripts import lycoris_ia3
from tenner.families import FAMILIES
from tenner.kohya.networks import (
    ALGORITHMS,
    BESIDE_THE_BASE,
    IA3,
    IA3_ARGUMENTS,
    LYCORIS,
    NETWORKS,
    PLAIN,
    PRESETS,
)
from tenner.planning.vram import IA3_NUMBERS, IA3_TEXT_NUMBERS
from tenner.rules.lycoris import adds_to_weights
from tests.families import ia3_modules

pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set"),
]
DTYPES = ("bfloat16", "float8_e4m3fn")
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
    assert {*re.findall(r'"([\w-]+)":', table), IA3} == {*ALGORITHMS, "full"}
    config = (lycoris() / "config.py").read_text(encoding="utf-8")
    assert all(f'"{name}"' in config for name in PRESETS)


STEPS = """
import json, logging, random, sys
logging.disable(logging.CRITICAL)
import torch
import lycoris_ia3
from lycoris.kohya import create_network
lycoris_ia3.make_available()

class DoubleStreamBlock(torch.nn.Module):  # a name that LyCORIS looks for
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(96, 96)

    def forward(self, x):
        return self.layer(x)

def step(dtype, given):
    "The names of parameters that a step gives a gradient; None where it fails."
    torch.manual_seed(0)
    random.seed(0)
    base = torch.nn.Sequential(DoubleStreamBlock()).to(dtype).requires_grad_(False)
    try:
        network = create_network(1.0, 16, 16, None, [], base, **given)
        network.apply_to([], base, False, True)
        network.float().requires_grad_(True)
        for _ in range(6):  # what is zero at the start leaves the other factor none
            with torch.autocast("cpu", torch.bfloat16):
                loss = (base(torch.randn(4, 96)).float() - torch.randn(4, 96)).pow(2).mean()
            loss.backward()
            with torch.no_grad():
                for each in network.parameters():
                    each += 0.01 * torch.randn_like(each)
    except (RuntimeError, AttributeError, ValueError):
        return None
    found = [name for name, each in network.named_parameters()
             if each.grad is not None and each.grad.any()]
    return found, len(list(network.parameters()))

print(json.dumps([step(getattr(torch, dtype), given) for dtype, given in json.loads(sys.argv[1])]))
"""


def steps(*asked: tuple[str, dict[str, str]]) -> list[tuple[list[str], int] | None]:
    """What a step of LyCORIS over a linear layer of this type gives a gradient, and the number of
    parameters; None where it fails."""
    words = (os.environ["TENNER_TRAINER_PYTHON"], "-c", STEPS, json.dumps(asked))
    env = {**os.environ, "PYTHONPATH": str(Path(lycoris_ia3.__file__).parent)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("bypass", [False, True])
def test_lycoris_trains_where_the_rules_let_it(bypass: bool) -> None:
    """Over a base in 16 and in 8 bits, each algorithm that it has."""
    more = {"bypass_mode": "True"} if bypass else {}
    algorithms = (*ALGORITHMS, "full")
    pairs = list(itertools.product(algorithms, DTYPES))
    found = steps(*((dtype, {"algo": name, **more}) for name, dtype in pairs))
    by_pair = dict(zip(pairs, found, strict=True))
    for name in algorithms:
        in_16, in_8 = (by_pair[name, dtype] for dtype in DTYPES)
        works = name in (BESIDE_THE_BASE if bypass else ALGORITHMS)
        words = (f"algo={name}", *(("bypass_mode=True",) if bypass else ()))
        assert (in_16 is not None) == works, name
        assert (in_8 is not None) == (works and not adds_to_weights(LYCORIS, words)), name
        for each in (in_16, in_8):
            whole = each and (len(each[0]) == each[1] or name == "dylora")  # of it a rank a step
            assert each is None or whole, (name, each)


def test_bypass_mode_leaves_the_magnitudes_of_dora_out() -> None:
    dora = {"algo": "lora", "dora_wd": "True"}
    with_magnitude, without = steps(
        ("bfloat16", dora), ("bfloat16", {**dora, "bypass_mode": "True"})
    )
    assert with_magnitude is not None
    assert len(with_magnitude[0]) == with_magnitude[1] == 3
    assert without is not None
    assert len(without[0]) == 2


def test_every_family_has_its_module() -> None:
    for family in FAMILIES.values():
        assert "def create_network(" in source(family.lora_module)


@pytest.fixture(scope="module")
def ia3() -> dict[str, Any]:
    python, wrapper = os.environ["TENNER_TRAINER_PYTHON"], Path(lycoris_ia3.__file__)
    words = (python, ia3_modules.__file__, os.environ["SD_SCRIPTS_DIR"], str(wrapper.parent))
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_ia3_reads_these_arguments_alone() -> None:
    text = (lycoris() / "modules" / "ia3.py").read_text(encoding="utf-8")
    found = re.findall(r"self\.(\w*drop\w*|bypass_mode)\b", text.partition("def forward")[2])
    assert set(found) == set(IA3_ARGUMENTS) - {"algo", "preset"}


def test_the_preset_of_ia3_finds_its_modules(ia3: dict[str, Any]) -> None:
    """By LyCORIS alone it finds none."""
    u_nets = {family for family in FAMILIES if FAMILIES[family].transformer is None}
    assert ia3["before"] == dict.fromkeys(ia3["before"], 0)
    assert set(ia3["before"]) == u_nets
    for family in u_nets:
        numbers = {"unet": IA3_NUMBERS[family], "text": IA3_TEXT_NUMBERS[family]}
        assert ia3[family] == numbers


def test_an_ia3_is_read_from_its_tensors_as_it_was(ia3: dict[str, Any]) -> None:
    assert ia3["from_file"] == [True] * 6

"""The correction of LyCORIS' (IA)³, on stand-ins of its tables."""

import re
import sys
from types import ModuleType
from typing import Any

import pytest

from tenner.engines.sd_scripts.lycoris_ia3 import is_requested, make_available


class IA3Module:
    """The attributes of the real one that count here; made from one tensor, as it is."""

    def __init__(self, name: str, layer: object, *, train_on_input: bool = False) -> None:
        self.train_input = train_on_input
        self.weight = Parameter()

    @classmethod
    def make_module_from_state_dict(cls, name: str, layer: object, weight: object) -> "IA3Module":
        raise NotImplementedError


class Parameter:
    data: Any

    def __init__(self) -> None:
        self.data = self
        self.value: object = None

    def copy_(self, value: object) -> None:
        self.value = value


@pytest.fixture
def lycoris(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Its tables as `kinds` and `preset`, its class as `module`."""
    names = ("lycoris", "lycoris.wrapper", "lycoris.modules", "lycoris.modules.ia3")
    made = {name: ModuleType(name) for name in (*names, "lycoris.config")}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    own = type("IA3Module", (IA3Module,), {})
    preset = {
        "unet_target_name": ["to_k", "ff.net.2"],
        "text_encoder_target_name": ["mlp.fc2"],
        "name_algo_map": {"ff.net.2": {"train_on_input": True}},
    }
    found: Any = made["lycoris"]
    found.kinds, found.preset, found.module = {"lora": object}, preset, own
    tables: dict[str, dict[str, object]] = {
        "lycoris.wrapper": {"network_module_dict": found.kinds},
        "lycoris.modules.ia3": {"IA3Module": own},
        "lycoris.config": {"PRESET": {"ia3": preset}},
    }
    for name, values in tables.items():
        made[name].__dict__.update(values)
    return found


@pytest.mark.parametrize(
    ("module", "words", "requested"),
    [
        ("lycoris.kohya", ["algo=ia3"], True),
        ("lycoris.kohya", ["preset=full", "algo=IA3"], True),
        ("lycoris.kohya", ["algo=loha", "preset=ia3"], False),
        ("lycoris.kohya", None, False),
        ("networks.lora", ["algo=ia3"], False),
        (None, None, False),
    ],
)
def test_it_is_for_ia3_alone(module: str | None, words: list[str] | None, requested: bool) -> None:
    assert is_requested(module, words) == requested


def test_the_module_is_entered_and_read_from_both_of_its_tensors(lycoris: Any) -> None:
    make_available()
    assert lycoris.kinds["ia3"] is lycoris.module
    made = lycoris.module.make_module_from_state_dict("name", object(), "numbers", 1)
    assert isinstance(made, lycoris.module)
    assert made.train_input
    assert made.weight.value == "numbers"


def test_names_of_the_preset_are_ends_of_paths(lycoris: Any) -> None:
    make_available()
    key, last = lycoris.preset["unet_target_name"]
    assert re.match(key, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k")
    assert not re.match(key, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.0")
    assert re.match(last, "mid_block.attentions.0.transformer_blocks.0.ff.net.2")
    assert not re.match(last, "mid_block.attentions.0.transformer_blocks.0.ff.net.0")
    assert lycoris.preset["name_algo_map"] == {last: {"train_on_input": True}}


def test_a_lycoris_with_an_entry_of_its_own_is_left_as_it_is(lycoris: Any) -> None:
    theirs = lycoris.kinds["ia3"] = object()
    before = str(lycoris.preset)
    make_available()
    assert lycoris.kinds["ia3"] is theirs
    assert str(lycoris.preset) == before
    with pytest.raises(NotImplementedError):
        lycoris.module.make_module_from_state_dict("name", object(), "numbers")

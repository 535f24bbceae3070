"""(IA)³ by LyCORIS, which has it and cannot make it: runs in the trainer's Python.

lycoris-lora 3.4.0 has the module (`modules/ia3.py`) and the preset (`config.py`), and passes over
both: its table of kinds (`wrapper.py`) has no entry for the module, whose reading from a file takes
one of its two tensors; and names in presets are compared from the beginning of a module's path,
where those of the preset are ends of it, so that it adapts nothing. This is corrected in the
process that trains; none of its files are changed, and a LyCORIS that has an entry of its own is
left as it is.

This file imports nothing of tenner, which is not installed there, and LyCORIS only for (IA)³.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingImports=false

import importlib
import re
from collections.abc import Sequence
from typing import Any


def is_requested(network_module: str | None, network_args: Sequence[str] | None) -> bool:
    """Whether sd-scripts' options are those of (IA)³."""
    words = [word.partition("=") for word in network_args or ()]
    return network_module == "lycoris.kohya" and any(
        (key, value.lower()) == ("algo", "ia3") for key, _, value in words
    )


def make_available() -> None:
    """Let LyCORIS make (IA)³ and read it from a file, and let its preset `ia3` find the modules."""
    kinds: dict[str, Any] = importlib.import_module("lycoris.wrapper").network_module_dict
    if "ia3" in kinds:
        return
    module: Any = importlib.import_module("lycoris.modules.ia3").IA3Module
    kinds["ia3"] = module
    module.make_module_from_state_dict = classmethod(_read)
    preset: dict[str, Any] = importlib.import_module("lycoris.config").PRESET["ia3"]
    for key in ("unet_target_name", "text_encoder_target_name"):
        preset[key] = [_at_the_end(name) for name in preset[key]]
    options = preset["name_algo_map"]
    preset["name_algo_map"] = {_at_the_end(name): each for name, each in options.items()}


def _read(kind: Any, lora_name: str, original: Any, weight: Any, on_input: Any) -> Any:
    """A module of a file's two tensors, of which the second is 1 where inputs are scaled."""
    made = kind(lora_name, original, train_on_input=bool(on_input))
    made.weight.data.copy_(weight)
    return made


def _at_the_end(name: str) -> str:
    return rf".*\.{re.escape(name)}$"

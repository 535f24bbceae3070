"""Weights that are stored with scales or codes, as drawing programs take them and trainers do not.

sd-scripts loads what has the right names and drops the rest: of such a file it would train on
numbers that mean nothing. Plain weights in 8 bits (float8_e4m3fn) are read as they are.
"""

import re
from collections.abc import Mapping

from tenner.core.messages import msg
from tenner.core.safetensors_head import TensorEntry

_MARKS: tuple[tuple[str, str], ...] = (
    (msg("bitsandbytes (nf4 or fp4)"), r"\.(absmax|quant_map|nested_absmax)$|quant_state\."),
    ("SVDQuant (Nunchaku)", r"\.(qweight|wscales|smooth_factor(_orig)?)$"),
    (
        msg("scaled 8 bits or less"),
        r"(\.(scale_weight|scale_input|weight_scale(_2)?|input_scale|comfy_quant)|(^|\.)scaled_fp8)$",
    ),
)
_CODES = ("U8", "I8", "I16", "U16", "I32", "U32")
"""Number formats that hold codes, where a matrix should be."""


def quantised(entries: Mapping[str, TensorEntry]) -> str | None:
    """How the weights of a file are quantised; None for plain ones."""
    for how, mark in _MARKS:
        if any(re.search(mark, name) for name in entries):
            return how
    for name, each in entries.items():
        if not name.endswith(".weight") or len(each["shape"]) < 2:
            continue
        if each["dtype"] in _CODES:
            return msg("whole numbers ({dtype})", dtype=each["dtype"])
        if each["dtype"] == "F8_E5M2":
            return msg("float8_e5m2, which sd-scripts does not train over")
    return None

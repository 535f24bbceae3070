"""Values of the network's arguments, as the modules of sd-scripts read them.

From `networks/lora.py`, `lora_flux.py` and `lora_sd3.py`: they end with an assertion or a
ValueError after the base is loaded, or divide by what a share of 1 leaves.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping

from tenner.core.errors import Problem
from tenner.core.messages import Message, msg
from tenner.families import FAMILIES
from tenner.rules.rule import Check
from tenner.rules.view import View

_NUM_BLOCKS = {"sd1": 25, "sd2": 25, "sdxl": 23}
"""Of the U-Net by `get_block_dims_and_alphas`: 12 down, 1 middle, 12 up; 1, 9, 3, 9 and 1."""
_RATES_OF_BLOCKS = r"(cosine|sine|linear|reverse_linear|zeros)(\+\d*\.?\d+)?"
"""`get_block_lr_weight`: a name, and what is added to it."""

Judge = Callable[[str, View], Message | None]


def _number(text: str) -> float:
    """NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _share(value: str, view: View) -> Message | None:
    del view
    return None if 0 <= _number(value) < 1 else msg("a number from 0 to below 1")


def _positive(value: str, view: View) -> Message | None:
    del view
    return None if 0 < _number(value) < math.inf else msg("a number above 0")


def _rank(value: str, view: View) -> Message | None:
    del view
    return None if re.fullmatch(r"\d+", value.strip()) else msg("a whole number, 0 or more")


def _numbers(value: str) -> list[str]:
    return [each.strip() for each in value.strip().removeprefix("[").removesuffix("]").split(",")]


def _ranks(number: int, of: str) -> Judge:
    def judge(value: str, view: View) -> Message | None:
        del view
        found = _numbers(value)
        if len(found) == number and all(re.fullmatch(r"\d+", each) for each in found):
            return None
        return msg("{number} whole numbers between commas: {of}", number=number, of=of)

    return judge


def _of_blocks(pattern: str) -> Judge:
    """A number for each block of the U-Net."""

    def judge(value: str, view: View) -> Message | None:
        number = _NUM_BLOCKS.get(view.family or "")
        found = [each.strip() for each in value.split(",")]
        is_right = all(re.fullmatch(pattern, each) for each in found)
        if number is None or (is_right and len(found) == number):
            return None
        return msg("{number} numbers between commas, one for each block", number=number)

    return judge


def _rates(value: str, view: View) -> Message | None:
    del view
    if re.fullmatch(_RATES_OF_BLOCKS, value):
        return None
    if all(not each or math.isfinite(_number(each)) for each in value.split(",")):
        return None
    return msg("numbers between commas, or cosine, sine, linear, reverse_linear or zeros")


def _middle_rates(value: str, view: View) -> Message | None:
    del view
    if all(not each or math.isfinite(_number(each)) for each in value.split(",")):
        return None
    return msg("numbers between commas")


def _one_of(*words: str) -> Judge:
    def judge(value: str, view: View) -> Message | None:
        del view
        return None if value in words else msg("one of {words}", words=", ".join(words))

    return judge


def _blocks(kind: int) -> Judge:
    """Indices of a transformer's blocks, the first or the second kind of them."""

    def judge(value: str, view: View) -> Message | None:
        size = FAMILIES[view.family].transformer if view.family else None
        if size is None or kind >= len(size.blocks.numbers):
            return None
        number = size.blocks.numbers[kind]
        if value in ("all", "none", "") or all(
            _is_range(part, number) for part in value.split(",")
        ):
            return None
        return msg("all, none, or indices from 0 to {last} as in 0-3,5", last=number - 1)

    return judge


def _is_range(part: str, number: int) -> bool:
    found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
    if found is None:
        return False
    first, last = int(found[1]), int(found[2] or found[1])
    return first <= last < number


_RANKS = (
    *("conv_dim", "unit", "img_attn_dim", "txt_attn_dim", "img_mlp_dim", "txt_mlp_dim"),
    *("img_mod_dim", "txt_mod_dim", "single_dim", "single_mod_dim", "context_attn_dim"),
    *("context_mlp_dim", "context_mod_dim", "x_attn_dim", "x_mlp_dim", "x_mod_dim"),
)
_JUDGES: Mapping[str, Judge] = {
    **dict.fromkeys(("dropout", "rank_dropout", "module_dropout"), _share),
    **dict.fromkeys(
        ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"), _positive
    ),
    **dict.fromkeys(_RANKS, _rank),
    **dict.fromkeys(("block_dims", "conv_block_dims"), _of_blocks(r"\d+")),
    **dict.fromkeys(("block_alphas", "conv_block_alphas"), _of_blocks(r"\d*\.?\d+|\d+\.")),
    "down_lr_weight": _rates,
    "up_lr_weight": _rates,
    "mid_lr_weight": _middle_rates,
    "in_dims": _ranks(5, "img, time, vector, guidance, txt"),
    "emb_dims": _ranks(6, "context, t, x, y, final_mod, final_linear"),
    "train_blocks": _one_of("all", "single", "double"),
    "train_double_block_indices": _blocks(0),
    "train_single_block_indices": _blocks(1),
    "train_block_indices": _blocks(0),
}


def _wrong_values(view: View) -> Iterator[Problem]:
    """Arguments of the network whose values the trainer cannot read, or only at its own end."""
    for word in view.words("network_args"):
        key, equals, value = word.partition("=")
        judge = _JUDGES.get(key)
        expected = judge(value, view) if equals and judge else None
        if expected:
            yield Problem(
                text=msg("network_args: {word}: want {expected}", word=word, expected=expected),
                fix=msg("correct or remove {key}", key=key),
            )


RULES = (Check(find=_wrong_values, needs="trainer"),)

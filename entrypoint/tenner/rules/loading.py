"""Rules of what other programs load of the LoRA that is trained."""

from collections.abc import Iterator

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.families import FAMILIES
from tenner.rules.captions import leaves_text_encoders_alone
from tenner.rules.rule import SD_SCRIPTS, Check, Rule
from tenner.rules.view import View
from tenner.rules.written import keyword_arguments


def _text_left_out_by_comfyui(view: View) -> Iterator[Problem]:
    facts = FAMILIES.get(view.family or "")
    if facts is None or leaves_text_encoders_alone(view):
        return
    arguments = keyword_arguments(view.words("network_args"))
    found = facts.left_out_by_comfyui(view.text("network_module") or None, arguments)
    if found:
        yield Problem(text=found.text, fix=found.fix, level=found.level)


def _is_oft_over_a_transformer(view: View) -> bool:
    facts = FAMILIES.get(view.family or "")
    is_oft = view.text("network_module") == "networks.oft"
    return is_oft and facts is not None and facts.transformer is not None


RULES = (
    Check(find=_text_left_out_by_comfyui, trainers=SD_SCRIPTS, needs="trainer"),
    Rule(
        when=_is_oft_over_a_transformer,
        text=lambda view: msg(
            "A1111, Forge, ComfyUI and diffusers load no OFT of sd-scripts over {family}",
            family=FAMILIES[view.family or ""].title,
        ),
        fix=msg("use lycoris.kohya with algo=diag-oft, which ComfyUI loads"),
        level="warning",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
)

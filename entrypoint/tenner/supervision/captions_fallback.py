"""Options that save memory when the card's runs out while sd-scripts encodes the captions. Pure.

Before the first step the transformer or U-Net is in the host's memory, and only the text encoders
are on the card: a smaller batch, swapped blocks and gradient checkpointing free nothing there.
These do: fewer captions at a time, and text encoders in 8 bits or on the CPU, by the options that
sd-scripts has for a family (`cache_text_encoder_outputs_if_needed` of its scripts). T5 is held in 8
bits where its file has them and `fp8_base` is set, which holds the transformer in 8 bits too.
"""

from dataclasses import dataclass

from tenner.core.family import Family
from tenner.core.messages import msg
from tenner.engines.train_options import TrainOptions, Value
from tenner.families import FAMILIES
from tenner.rules.lycoris import IN_8_BITS, adds_to_weights
from tenner.settings.model import Settings
from tenner.supervision.oom_fallback import Rung, next_rung

_AT_A_TIME = "text_encoder_batch_size"
_T5_IN_8_BITS = "fp8_base"


@dataclass(frozen=True, kw_only=True)
class TextEncoders:
    """The text encoders of a run. `t5_in_8_bits` is whether the file of T5 is in 8 bits; None for
    families without T5."""

    family: Family
    t5_in_8_bits: bool | None = None


def next_rung_for_captions(
    options: TrainOptions, settings: Settings, encoders: TextEncoders
) -> Rung | None:
    """The next options to try after the captions did not fit; None where there are no more."""
    facts = FAMILIES[encoders.family]
    if facts.transformer is None:  # captions are encoded in batches of the training's size
        rung = next_rung(options, settings)
        return rung if rung and "train_batch_size" in rung.changed else None
    at_a_time = options.only_sd_scripts(_AT_A_TIME) or options.train_batch_size
    if at_a_time != 1 and options.engine_options.get(_AT_A_TIME) is None:
        return Rung(
            changed={_AT_A_TIME: 1},
            description=msg("captions are encoded one at a time (text_encoder_batch_size = 1)"),
        )
    if encoders.t5_in_8_bits and _may_change(_T5_IN_8_BITS, options):
        return Rung(
            changed={_T5_IN_8_BITS: True},
            description=msg("T5 and the base are held in 8 bits (fp8_base = true)"),
        )
    for name, value in facts.captions_levers.items():
        if _may_change(name, options):
            changed: dict[str, Value] = {name: value}
            return Rung(
                changed=changed,
                description=msg(
                    "the text encoders take less of the card ({name} = true)", name=name
                ),
            )
    return None


def captions_fix(options: TrainOptions, encoders: TextEncoders) -> str:
    """What the user can do when nothing is left to try."""
    size = FAMILIES[encoders.family].transformer
    if size is None:
        return msg("a smaller batch_size, or a card with more memory")
    may_be_8_bit = _may_change(_T5_IN_8_BITS, options) or options.only_sd_scripts(_T5_IN_8_BITS)
    if encoders.t5_in_8_bits is False and may_be_8_bit:
        return msg(
            "the text encoders alone take {gb} GB: name a T5 in 8 bits"
            " (t5xxl_fp8_e4m3fn.safetensors) in t5xxl and set fp8_base = true, or rent a card with"
            " more memory",
            gb=f"{size.text_gb:.1f}",
        )
    return msg(
        "the text encoders alone do not fit: smaller images or fewer of them change nothing; rent a"
        " card with more memory"
    )


def _may_change(name: str, options: TrainOptions) -> bool:
    """Whether an option is open and off, so that it can be switched on."""
    in_8_bits = name.startswith("fp8") and options.mixed_precision == "no"
    summed = adds_to_weights(options.network_module, options.network_args)
    is_barred = in_8_bits or (name in IN_8_BITS and summed)
    return not is_barred and options.only_sd_scripts(name) is None

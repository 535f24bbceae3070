"""Whether trained weights learnt anything, and whether they changed as much as other LoRAs do.

The bounds, for the update's Frobenius norm over that of the weights it adapts, in a network part:

- Below 2e-4 the update is smaller than the error that the base itself has by being stored in fp16
  (2.1e-4 of normally distributed weights, by rounding them). No published LoRA is known to be as
  small, so it was measured (`python -m bench.weight_ratio`, the demo's concept on the tiny base at
  thousandths of its rates): at 1.3e-4 in the U-Net and 2.7e-5 in the text encoder pictures come
  0.2 % nearer to the concept, at 1.3e-3 and 2.7e-4 2.5 %, at 1.3e-2 and 1.9e-3 35 %. The same
  bound is taken for text encoders, of which nothing is published and the table's are smaller.
- Above 0.5 it is several times what is known of LoRAs that do their task: 0.11 at rank 4 and 0.06
  at rank 64 (LoRA, arXiv 2106.09685, table 7: 6.91 and 3.57 of 61.95), 0.13 in the U-Net and 0.008
  in the text encoder of the demo's LoRA, which learns its concept (`python -m bench.weight_ratio`;
  at ten times its rates, where it spoils the base, 6.1). Users of sd-scripts' `scale_weight_norms`
  call a LoRA overtrained where a module's norm passes 1 (kohya-ss/sd-scripts, pull request 545).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tenner.core.errors import Level, Problem
from tenner.core.messages import Message, joined, msg
from tenner.core.network_parts import PART_NAMES, Part
from tenner.kohya.networks import IA3_RATE
from tenner.lora_files.measured import Measured, PartMeasure
from tenner.lora_files.names import Kind

LEAST_RATIO = 2e-4
MOST_RATIO = 0.5
MOST_LOST = 0.05
"""Most relative rounding error of saving an update: bf16 has 0.002, fp16 0.0003."""
MOST_TINY = 0.5
"""Share of numbers that may be below the smallest normal one of their precision."""

_STEP_FINDERS = ("prodigy", "dadapt")
"""Optimizers that estimate the step size, whose learning rate is a factor on it: their authors
recommend 1."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What can explain that nothing was learnt. `rates` are learning rates by part, `lost` the
    relative rounding errors of saving, if the trainer reported them."""

    optimizer: str = ""
    rates: Mapping[Part, float] = field(default_factory=dict[Part, float])
    warmup_steps: int = 0
    num_steps: int = 0
    started_from: str = ""
    lost: Mapping[str, float] = field(default_factory=dict[str, float])
    kind: Kind = "lora"
    """Of the network."""

    @property
    def usual_rate(self) -> str:
        """A learning rate that this kind of network learns at."""
        return f"{IA3_RATE:g}" if self.kind == "ia3" else "1e-4"


def judge(measured: Measured, training: Training) -> tuple[Problem, ...]:
    """Problems of trained weights: errors where nothing was learnt, or nothing in the U-Net;
    warnings where a part is unchanged, or changed less or more than those of other LoRAs."""
    parts = measured.parts
    if parts and all(part.is_unchanged for part in parts):
        return (_nothing_learnt(parts, training),)
    found: list[Problem] = []
    for part in parts:
        if part.is_unchanged:
            found += _part_unchanged(part, training)
            continue
        found += _size(part, training)
        found += _precision(part, training)
    return tuple(found)


def _nothing_learnt(parts: tuple[PartMeasure, ...], training: Training) -> Problem:
    number = sum(part.num_modules for part in parts)
    cause, fix = likely_cause(parts[0], training)
    if training.started_from:
        what = msg(
            "the LoRA is what it started from: none of its {number} modules changed", number=number
        )
    else:
        what = msg(
            "the LoRA learnt nothing: the update of all {number} modules is zero", number=number
        )
    return _joined(what, cause, fix, "error")


def _part_unchanged(part: PartMeasure, training: Training) -> list[Problem]:
    if training.rates.get(part.part) == 0:
        return []  # as was requested
    name = PART_NAMES[part.part]
    cause, fix = likely_cause(part, training)
    level: Level = "error" if part.part == "unet" else "warning"
    if training.started_from:
        what = msg(
            "the {name} is what it started from: none of its {num_modules} modules changed",
            name=name,
            num_modules=part.num_modules,
        )
    else:
        what = msg(
            "the {name} learnt nothing: the update of all {num_modules} modules is zero",
            name=name,
            num_modules=part.num_modules,
        )
    return [_joined(what, cause, fix, level)]


def likely_cause(part: PartMeasure, training: Training) -> tuple[Message, Message]:
    """(why the part is unchanged, what to do)."""
    rate = training.rates.get(part.part)
    again = msg("then start again with --restart")
    if rate == 0:
        return msg("its learning rate is 0"), msg(
            "set learning_rate = {usual}; {again}", usual=training.usual_rate, again=again
        )
    if rate is not None and rate < 0.1 and training.optimizer.lower().startswith(_STEP_FINDERS):
        cause = msg(
            "with {optimizer} the learning rate is a factor on the step that it finds"
            " itself, and {rate} of it is next to nothing",
            optimizer=training.optimizer,
            rate=f"{rate:g}",
        )
        return (
            cause,
            msg(
                "set learning_rate = 1 and leave text_encoder_lr and unet_lr out; {again}",
                again=again,
            ),
        )
    if max(part.lost or 0.0, training.lost.get(part.part, 0.0)) > MOST_TINY:
        return (
            msg(
                "what was learnt is too small for {precision_name} and was saved as zero",
                precision_name=_precision_name(part),
            ),
            msg(
                "set save_precision = 'float' or 'bf16', and a higher learning_rate; {again}",
                again=again,
            ),
        )
    if training.warmup_steps >= training.num_steps > 0:
        return (
            msg("the training ended before its warm-up did"),
            msg("set lr_warmup_steps below max_train_steps; {again}", again=again),
        )
    if rate is not None:
        return (
            msg(
                "a learning rate of {rate} over {num_steps} steps changes no number",
                rate=f"{rate:g}",
                num_steps=training.num_steps,
            ),
            msg(
                "set learning_rate = {usual}, or train longer; {again}",
                usual=training.usual_rate,
                again=again,
            ),
        )
    return msg("no number was changed"), msg("train again with a higher learning_rate")


def _size(part: PartMeasure, training: Training) -> list[Problem]:
    name, moved, whole = PART_NAMES[part.part], part.moved_ratio, part.ratio
    if moved is not None and moved < LEAST_RATIO:
        return [
            Problem(
                text=msg(
                    "the {name}'s update is {moved} of its weights: too little to be seen"
                    " in pictures (trained LoRAs have {least_ratio} to {most_ratio})",
                    name=name,
                    moved=f"{moved:.1e}",
                    least_ratio=f"{LEAST_RATIO:g}",
                    most_ratio=f"{MOST_RATIO:g}",
                ),
                fix=msg("train longer, or raise learning_rate")
                if training.kind == "ia3"
                else msg("train longer, or raise learning_rate or network_alpha"),
                level="warning",
            )
        ]
    if whole is not None and whole > MOST_RATIO:
        return [
            Problem(
                text=msg(
                    "the {name}'s update is {whole} of its weights: little of the base is"
                    " left (trained LoRAs have {least_ratio} to {most_ratio})",
                    name=name,
                    whole=f"{whole:.2g}",
                    least_ratio=f"{LEAST_RATIO:g}",
                    most_ratio=f"{MOST_RATIO:g}",
                ),
                fix=msg(
                    "use an earlier checkpoint or a lower strength, or train with a lower"
                    " learning_rate"
                ),
                level="warning",
            )
        ]
    return []


def _precision(part: PartMeasure, training: Training) -> list[Problem]:
    name = PART_NAMES[part.part]
    fix = msg("set save_precision = 'float' or 'bf16'")
    lost = max(part.lost or 0.0, training.lost.get(part.part, 0.0))
    if lost > MOST_LOST:
        return [
            Problem(
                text=msg(
                    "saving in {precision_name} took {lost} of the {name}'s update: its"
                    " numbers are too small for it",
                    precision_name=_precision_name(part),
                    lost=f"{lost:.0%}",
                    name=name,
                ),
                fix=fix,
                level="warning",
            )
        ]
    if part.tiny_share > MOST_TINY:
        return [
            Problem(
                text=msg(
                    "{tiny_share} of the {name}'s numbers are below the smallest normal"
                    " number of {precision_name} and have lost digits",
                    tiny_share=f"{part.tiny_share:.0%}",
                    name=name,
                    precision_name=_precision_name(part),
                ),
                fix=fix,
                level="warning",
            )
        ]
    return []


def _precision_name(part: PartMeasure) -> str:
    names = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp64"}
    return names.get(part.dtype, part.dtype)


def _joined(what: Message, cause: Message, fix: Message, level: Level) -> Problem:
    return Problem(text=joined(what, cause), fix=fix, level=level)

"""What a run will do, decided before anything is paid for. Pure: facts in, a plan out.

Every decision that the user left open is made here, once, and carries its reason. Engines only
translate: `options` holds sd-scripts' option names with decided values.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tenner.base.model import Base
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.redact import LocalPaths
from tenner.engines.train_options import TrainOptions, Value
from tenner.planning.batch_choice import Choice
from tenner.planning.expectation import Expected
from tenner.planning.learning_rate import rates_for
from tenner.planning.length import Length, length_reason, run_length
from tenner.settings.model import Settings

EngineName = Literal["sd-scripts", "native"]
Device = Literal["cuda", "cpu"]

_WARMUP_STEPS = 100  # the guide's
_SAVE_EVERY_EPOCHS = 2  # the guide's


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decided run. `options` are in sd-scripts' names; `choices` are the reasons."""

    output_name: str
    engine: EngineName
    base: Base
    device: Device
    gpu: str | None
    num_processes: int
    resolution: tuple[int, int]
    length: Length
    options: TrainOptions
    choices: tuple[Choice, ...] = ()
    notices: tuple[Problem, ...] = field(default=())
    expected: Expected | None = None
    """Hours and dollars; None on a CPU, or where the card's speed is not known."""
    needed_gb: float | None = None
    """The memory model's estimate, in 1e9 bytes."""
    state_minutes: float = 5.0
    """Minutes between states, besides those saved with checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the card and the data decide: batch, precision, attention, workers."""

    batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    checkpointed_blocks: int | None = None
    mixed_precision: Literal["no", "fp16", "bf16"]
    attention: Literal["xformers", "sdpa"]
    num_workers: int
    added: Mapping[str, bool | int] = field(default_factory=dict[str, bool | int])
    """Further options that make a transformer fit the card."""

    def images_per_update(self, num_processes: int) -> int:
        """Images whose gradients move the weights once."""
        return self.batch_size * self.gradient_accumulation_steps * num_processes


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is trained, by what and where: found out and chosen before the plan is made.

    `gpu` is None on a CPU. `resolution` is width and height, in pixels. `batches_per_epoch` counts
    batches of the shape's size over all buckets.
    """

    engine: EngineName
    base: Base
    device: Device
    gpu: str | None
    resolution: tuple[int, int]
    batches_per_epoch: int


def plan_run(
    settings: Settings,
    facts: RunFacts,
    shape: Shape,
    *,
    optimizer_type: str,
    choices: tuple[Choice, ...] = (),
    notices: tuple[Problem, ...] = (),
) -> Plan:
    """The whole plan, but for what it costs."""
    length = run_length(settings, facts.batches_per_epoch, shape.gradient_accumulation_steps)
    warmup, shortened = warmup_steps(settings, length)
    options = decided_options(
        settings,
        base=facts.base,
        shape=shape,
        resolution=facts.resolution,
        length=length,
        optimizer_type=optimizer_type,
    )
    own_choices = [
        Choice(name="steps", value=str(length.num_steps), reason=length_reason(settings, length)),
        Choice(name="warm-up", value=f"{warmup} steps", reason=_warmup_reason(settings, shortened)),
    ]
    return Plan(
        output_name=settings.output_name,
        engine=facts.engine,
        base=facts.base,
        device=facts.device,
        gpu=facts.gpu,
        num_processes=settings.num_processes,
        resolution=facts.resolution,
        length=length,
        state_minutes=settings.save_state_every_minutes,
        options=options,
        choices=(*choices, *own_choices),
        notices=(*notices, *shortened),
    )


def warmup_steps(settings: Settings, length: Length) -> tuple[int, tuple[Problem, ...]]:
    """The guide's 100 steps, and never more than a tenth of the run unless the user set it.

    A warm-up that would leave no step at the full rate is shortened to a tenth, which is reported.
    """
    expected, tenth = settings.lr_warmup_steps, length.num_steps // 10
    if expected is None:
        return min(_WARMUP_STEPS, tenth), ()
    steps = round(expected * length.num_steps) if isinstance(expected, float) else expected
    if steps == 0 or steps < length.num_steps:
        return steps, ()
    notice = Problem(
        text=msg(
            "lr_warmup_steps = {expected} is as long as the run of {num_steps} steps or"
            " longer: the warm-up is shortened to {tenth}",
            expected=expected,
            num_steps=length.num_steps,
            tenth=tenth,
        ),
        fix=msg("write a share instead, such as lr_warmup_steps = 0.1, or train longer"),
        level="warning",
    )
    return tenth, (notice,)


def save_every(settings: Settings) -> tuple[int | None, int | None]:
    """Epochs and steps between checkpoints: the user's, else every two epochs as in the guide, or
    as often as `sample_at_epochs` needs them."""
    if settings.save_every_n_epochs or settings.save_every_n_steps:
        return settings.save_every_n_epochs, settings.save_every_n_steps
    return math.gcd(_SAVE_EVERY_EPOCHS, *settings.sample_at_epochs), None


def decided_options(
    settings: Settings,
    *,
    base: Base | None,
    shape: Shape,
    resolution: tuple[int, int],
    length: Length,
    optimizer_type: str,
) -> TrainOptions:
    """The options of the run: the settings' own, and what is decided for what they leave open.

    Without `base`, which may be elsewhere, what it predicts is taken from the settings.
    """
    predicts_v = base.prediction == "v_prediction" if base else bool(settings.v_parameterization)
    zero_snr = base.zero_terminal_snr if base else bool(settings.zero_terminal_snr)
    save_epochs, save_steps = save_every(settings)
    rates = rates_for(settings, shape.images_per_update(settings.num_processes))
    return TrainOptions(
        v2=settings.v2,
        vae=settings.vae,
        clip_skip=settings.clip_skip,
        max_token_length=settings.max_token_length,
        enable_bucket=settings.enable_bucket,
        min_bucket_reso=settings.min_bucket_reso,
        max_bucket_reso=settings.max_bucket_reso,
        bucket_reso_steps=settings.bucket_reso_steps,
        bucket_no_upscale=settings.bucket_no_upscale,
        random_crop=settings.random_crop,
        flip_aug=settings.flip_aug,
        shuffle_caption=settings.shuffle_caption,
        keep_tokens=settings.keep_tokens,
        caption_separator=settings.caption_separator,
        caption_dropout_rate=settings.caption_dropout_rate,
        caption_dropout_every_n_epochs=settings.caption_dropout_every_n_epochs,
        caption_tag_dropout_rate=settings.caption_tag_dropout_rate,
        network_module=settings.network_module,
        network_dim=settings.network_dim,
        network_alpha=settings.network_alpha,
        conv_dim=settings.conv_dim,
        conv_alpha=settings.conv_alpha,
        network_args=settings.network_args,
        network_dropout=settings.network_dropout,
        network_weights=settings.network_weights,
        network_train_unet_only=settings.network_train_unet_only,
        network_train_text_encoder_only=settings.network_train_text_encoder_only,
        lr_scheduler=settings.lr_scheduler,
        lr_scheduler_num_cycles=settings.lr_scheduler_num_cycles,
        lr_scheduler_power=settings.lr_scheduler_power,
        optimizer_args=settings.optimizer_args,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        min_snr_gamma=settings.min_snr_gamma,
        noise_offset=settings.noise_offset,
        ip_noise_gamma=settings.ip_noise_gamma,
        ema_decay=settings.ema_decay if settings.ema else None,
        prior_loss_weight=settings.prior_loss_weight,
        torch_compile=settings.torch_compile,
        cuda_graphs=settings.cuda_graphs,
        save_precision=settings.save_precision,
        save_model_as=settings.save_model_as,
        training_comment=settings.training_comment,
        engine_options=settings.engine_options,
        added=dict(shape.added),
        v_parameterization=predicts_v,
        zero_terminal_snr=zero_snr,
        resolution=resolution,
        max_train_steps=length.num_steps,
        train_batch_size=shape.batch_size,
        gradient_accumulation_steps=shape.gradient_accumulation_steps,
        gradient_checkpointing=shape.gradient_checkpointing,
        checkpointed_blocks=shape.checkpointed_blocks,
        mixed_precision=shape.mixed_precision,
        attention=shape.attention,
        max_data_loader_n_workers=shape.num_workers,
        optimizer_type=optimizer_type,
        validation_split=settings.validation_split or None,
        lr_warmup_steps=warmup_steps(settings, length)[0],
        learning_rate=rates.learning_rate,
        unet_lr=rates.unet_lr,
        text_encoder_lr=rates.text_encoder_lr,
        save_every_n_epochs=save_epochs,
        save_every_n_steps=save_steps,
        sample_prompts=settings.sample_prompts or None,
    )


def _published(key: str, value: Value) -> Value:
    """An option's value without a path of this machine."""
    if isinstance(value, tuple):
        return tuple(LocalPaths().removed_in(list(value)))
    if not isinstance(value, str):
        return value
    return Path(value).name if key in ("vae", "network_weights") else LocalPaths().removed(value)


def _warmup_reason(settings: Settings, shortened: tuple[Problem, ...]) -> str:
    if shortened:
        return msg("shortened to a tenth of the run")
    if settings.lr_warmup_steps is None:
        return msg("100 as in the guide, at most a tenth of the run")
    return msg("as set")


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as `plan.json` holds it: no local paths."""
    return {
        "output_name": plan.output_name,
        "engine": plan.engine,
        "base": {
            "name": plan.base.public_name,
            "family": plan.base.family,
            "hub_id": plan.base.hub_id,
        },
        "device": plan.device,
        "gpu": plan.gpu,
        "num_processes": plan.num_processes,
        "num_steps": plan.length.num_steps,
        "num_epochs": plan.length.num_epochs,
        "steps_per_epoch": plan.length.steps_per_epoch,
        "expected": plan.expected.to_json() if plan.expected else None,
        "needed_gb": None if plan.needed_gb is None else round(plan.needed_gb, 2),
        "options": {
            key: _published(key, value)
            for key, value in plan.options.by_name().items()
            if value is not None
        },
        "choices": [
            {"name": each.name, "value": each.value, "reason": each.reason} for each in plan.choices
        ],
    }

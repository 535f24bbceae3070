"""The options of a run for its trainer, decided, each with its type.

Names are sd-scripts' own; both engines translate from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from tenner.core.train_job import LrScheduler, Precision, SavePrecision
from tenner.kohya.options import Value as OptionValue

Value = OptionValue | None

_BY_NAME = ("engine_options", "added")
"""Fields that hold further options by name."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The decided options of a run. None is an option that the trainer is not given.

    Their order is that of `plan.json` and of sd-scripts' arguments.
    """

    # As the user set them
    v2: bool | None
    vae: str | None
    clip_skip: int | None
    max_token_length: Literal[75, 150, 225]
    enable_bucket: bool
    min_bucket_reso: int
    max_bucket_reso: int | None
    bucket_reso_steps: int | None
    bucket_no_upscale: bool
    random_crop: bool
    flip_aug: bool
    shuffle_caption: bool
    keep_tokens: int
    caption_separator: str
    caption_dropout_rate: float
    caption_dropout_every_n_epochs: int
    caption_tag_dropout_rate: float
    network_module: str
    network_dim: int
    network_alpha: float
    conv_dim: int | None
    conv_alpha: float | None
    network_args: tuple[str, ...]
    network_dropout: float | None
    network_weights: str | None
    network_train_unet_only: bool | None
    network_train_text_encoder_only: bool
    learning_rate: float
    lr_scheduler: LrScheduler
    lr_scheduler_num_cycles: int
    lr_scheduler_power: float
    optimizer_args: tuple[str, ...]
    max_grad_norm: float
    seed: int
    min_snr_gamma: float | None
    noise_offset: float | None
    ip_noise_gamma: float | None
    ema_decay: float | None
    """Of the weights' moving average; None where there is none."""
    prior_loss_weight: float
    torch_compile: bool
    cuda_graphs: bool
    save_precision: SavePrecision
    save_model_as: Literal["safetensors"]
    training_comment: str | None

    engine_options: Mapping[str, Value] = field(default_factory=dict[str, Value])
    """Further options that the user gave, of those that only sd-scripts names: checked against
    its parser, of the types that it reads."""

    # Decided for this base, dataset and card
    v_parameterization: bool
    zero_terminal_snr: bool
    resolution: tuple[int, int]
    max_train_steps: int
    train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    checkpointed_blocks: int | None
    """Of the U-Net, which the built-in trainer recomputes with gradient checkpointing; None is all
    of them."""
    mixed_precision: Precision
    attention: Literal["xformers", "sdpa"]
    max_data_loader_n_workers: int
    optimizer_type: str
    validation_split: float | None
    lr_warmup_steps: int
    unet_lr: float
    text_encoder_lr: tuple[float, ...]
    """One rate, or one for each text encoder of SDXL."""
    save_every_n_epochs: int | None
    save_every_n_steps: int | None
    sample_prompts: tuple[str, ...] | None

    added: Mapping[str, Value] = field(default_factory=dict[str, Value])
    """Options that only sd-scripts names and that were set later, to fit the card's memory."""

    def by_name(self) -> dict[str, Value]:
        """All options by their names, in order."""
        found: dict[str, Value] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            found |= value if each.name in _BY_NAME else {each.name: value}
        return found

    def only_sd_scripts(self, name: str) -> Value:
        """The value of an option that only sd-scripts names; None where it is not set."""
        return self.added.get(name, self.engine_options.get(name))

    def with_changed(self, changed: Mapping[str, Value]) -> "TrainOptions":
        """These options, those in `changed` with other values. What is new comes last."""
        own = {each.name for each in fields(self)} - set(_BY_NAME)
        typed = {name: value for name, value in changed.items() if name in own}
        given = {name: changed.get(name, value) for name, value in self.engine_options.items()}
        new = {
            name: value
            for name, value in changed.items()
            if name not in own and name not in self.engine_options
        }
        return replace(  # the values are those of `Rung` and of a ledger, named and typed there
            self,
            **typed,  # pyright: ignore[reportArgumentType]
            engine_options=given,
            added={**self.added, **new},
        )

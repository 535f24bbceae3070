"""What one training process has to do: everything, in one JSON file.

Names are those of sd-scripts where it has the option. The dataset package has already decided which
images, which captions, which buckets; the engine has no folder logic. Standard library only: the
process that runs the job may hold nothing else of tenner's dependencies.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from tenner.core.family import Family

Precision = Literal["no", "fp16", "bf16"]
SavePrecision = Literal["float", "fp16", "bf16"]
LrScheduler = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]
JOB_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class TrainItem:
    """One image of the data set. Sizes are (width, height) in pixels.

    The picture is resized to `resized`, then cut to `bucket`: at (`crop_left`, `crop_top`), in
    the middle where these are None, or at random positions where `random_crop` is set.
    `original` is the size before resizing (SDXL is conditioned on it); None reads it from the
    file. `is_reg` marks a regularisation image, whose loss is weighted by `prior_loss_weight`.
    """

    image: str
    caption: str
    bucket: tuple[int, int]
    resized: tuple[int, int]
    num_repeats: int = 1
    original: tuple[int, int] | None = None
    crop_left: int | None = None
    crop_top: int | None = None
    random_crop: bool = False
    is_reg: bool = False
    loss_weight: float = 1.0
    folder: str = ""
    """Name of the data set's folder (no path), for the file's metadata."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training run. `to_json` and `from_json` are inverse to each other."""

    # The base model
    base: str
    """A diffusers folder or a single `.safetensors` file."""
    family: Family
    base_name: str = ""
    """What the base is called in the file's metadata; never a path."""
    base_sha256: str = ""
    vae: str | None = None
    """Another VAE: a diffusers folder or a single file."""
    tokenizer: str | None = None
    """Folder of the (first) CLIP tokenizer; None takes the base's own, or the packaged one."""
    tokenizer_2: str | None = None
    v_parameterization: bool | None = None
    """None takes the base's scheduler configuration (a single file then means epsilon)."""
    zero_terminal_snr: bool | None = None

    # The data
    items: tuple[TrainItem, ...]
    validation_items: tuple[TrainItem, ...] = ()
    """Pictures that are not trained on: the loss on them is reported after epochs."""
    validate_every_n_epochs: int = 1
    resolution: tuple[int, int] = (512, 512)
    cache_dir: str | None = None
    """Latents are always cached in memory; also in this folder where it is given."""
    vae_batch_size: int = 1
    flip_aug: bool = False
    enable_wildcard: bool = False
    """Draw one line of a caption, and one of the words in `{red|blue}`; `{{` is a brace."""
    shuffle_caption: bool = False
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    caption_separator: str = ","
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0
    max_token_length: Literal[75, 150, 225] = 75
    clip_skip: int | None = None

    # Where files go
    output_dir: str
    output_name: str
    state_dir: str
    log_dir: str | None = None
    """A folder for TensorBoard's log; None writes none."""
    save_precision: SavePrecision = "fp16"
    save_every_n_epochs: int | None = None
    save_every_n_steps: int | None = None
    save_state: bool = True
    """A state beside every checkpoint and at the end."""
    save_state_every_n_steps: int | None = None
    save_state_every_minutes: float | None = None
    keep_states: int = 2
    resume: str | None = None
    """A state folder to resume from, exactly."""
    stop_file: str | None = None
    """When this file appears, the epoch is finished, weights and state are saved, and the process
    ends."""

    # How long and how fast
    train_batch_size: int = 1
    max_train_steps: int = 1600
    max_train_epochs: int | None = None
    """Wins over `max_train_steps`."""
    gradient_accumulation_steps: int = 1
    seed: int = 42
    mixed_precision: Precision = "no"
    gradient_checkpointing: bool = False
    checkpointed_blocks: int | None = None
    """With gradient checkpointing: of how many of the U-Net's residual and transformer blocks the
    backward pass computes the inner values again, the cheapest first; None is all."""
    channels_last: bool | None = None
    """Memory layout of the convolutions; None is channels last."""
    torch_compile: bool = False
    """Compile each kind of transformer block once (regional compilation)."""
    cuda_graphs: bool = False
    """Replay each shape of pass as one CUDA graph."""
    no_half_vae: bool = True
    num_threads: int | None = None

    # The network
    network_dim: int = 32
    network_alpha: float = 16.0
    conv_dim: int | None = None
    conv_alpha: float | None = None
    network_train_unet_only: bool = False
    network_train_text_encoder_only: bool = False
    network_weights: str | None = None
    network_dropout: float | None = None
    rank_dropout: float | None = None
    module_dropout: float | None = None

    # The optimizer
    learning_rate: float = 1e-4
    unet_lr: float | None = None
    text_encoder_lr: tuple[float, ...] | None = None
    """One value, or one for each text encoder of SDXL."""
    lr_scheduler: LrScheduler = "constant"
    lr_warmup_steps: float = 0
    """Steps; a fraction of all steps where it is below 1."""
    lr_scheduler_num_cycles: int = 1
    lr_scheduler_power: float = 1.0
    optimizer_type: str = "AdamW"
    optimizer_args: dict[str, Any] = field(default_factory=dict[str, Any])
    max_grad_norm: float = 1.0
    ema_decay: float | None = None
    """Decay of the moving average of the weights, which is computed and saved beside them; None for
    no average."""

    # The loss
    min_snr_gamma: float | None = None
    noise_offset: float | None = None
    noise_offset_random_strength: bool = False
    adaptive_noise_scale: float | None = None
    multires_noise_iterations: int | None = None
    multires_noise_discount: float = 0.3
    ip_noise_gamma: float | None = None
    ip_noise_gamma_random_strength: bool = False
    prior_loss_weight: float = 1.0
    alpha_mask: bool = False
    """Weight the loss by each picture's alpha, at the latents' resolution."""
    min_timestep: int = 0
    max_timestep: int = 1000
    debiased_estimation_loss: bool = False
    scale_v_pred_loss_like_noise_pred: bool = False
    max_nonfinite_steps: int = 10
    """So many losses in a row that are not finite end the run."""

    # The file's metadata
    training_comment: str | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    """Further entries of the file's metadata; they win over the engine's own."""
    no_metadata: bool = False

    def to_json(self) -> str:
        return json.dumps({"format": JOB_FORMAT, **asdict(self)}, ensure_ascii=False, indent=1)

    @staticmethod
    def from_json(text: str) -> "TrainJob":
        """The job in `text`. Raises ValueError on anything that is not a job of this format."""
        found: Any = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("a job is a JSON object")  # noqa: TRY004 - about the file, not a type
        values = cast("dict[str, Any]", found)
        if values.pop("format", None) != JOB_FORMAT:
            raise ValueError(f"not a job of format {JOB_FORMAT}")
        for name in ("items", "validation_items"):
            values[name] = tuple(_item(each) for each in values.get(name, ()))
        if values.get("text_encoder_lr") is not None:
            values["text_encoder_lr"] = tuple(values["text_encoder_lr"])
        values["resolution"] = _pair(values.get("resolution", (512, 512)))
        return TrainJob(**_known(TrainJob, values))


def conv_alpha_of(conv_dim: int, conv_alpha: float | None) -> float:
    """Alpha of the convolutions: 1 where it is not set, and 0 means the rank, as in sd-scripts'
    `networks/lora.py`."""
    return 1.0 if conv_alpha is None else conv_alpha or float(conv_dim)


def read_job(path: Path) -> TrainJob:
    """The job at `path`. Raises ValueError (not a job) or OSError."""
    return TrainJob.from_json(path.read_text(encoding="utf-8"))


def _item(values: Mapping[str, Any]) -> TrainItem:
    item = dict(values)
    for name in ("bucket", "resized", "original"):
        if item.get(name) is not None:
            item[name] = _pair(item[name])
    return TrainItem(**_known(TrainItem, item))


def _pair(value: Any) -> tuple[int, int]:
    width, height = value
    return int(width), int(height)


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ValueError(f"unknown in a job: {', '.join(unknown)}")
    return dict(values)

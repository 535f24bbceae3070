"""How much memory of a card a LoRA training takes, from sizes that are known before it starts.

`context + weights + text encoders + LoRA and optimizer + activations x images + reserve`, in GB
(1e9 bytes). Sizes are counts of the models' own tensors. What an image takes is fitted to public
measurements: SimpleTuner's segmented-checkpointing page (2026-08; H100 and L40S, peaks of the
allocator) and arca.live 77209577 (2023-05; RTX 4090, SD 1.5 by sd-scripts, its text encoder
trained). `bench/calibration.py` prints model against measurement, row by row.

That is so for sd-scripts. The built-in trainer's step is traced instead (`bench.traced_memory`, on
tensors without contents): its parts are counted, and only what is outside of a trace is assumed.
No card has measured it yet.

Not known: what sd-scripts takes for SD 2.x (taken as SD 1.x, whose channels it has), other
attention than xformers and sdpa, and what torch.compile changes.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tenner.core.family import Family
from tenner.families import FAMILIES, Transformer
from tenner.hardware.cards.measured import MeasuredMemory, Trainer, measured_memory
from tenner.optimizers import state_bytes
from tenner.planning.checkpointing import shares_of
from tenner.planning.graph_memory import beside_pool_gb, inputs_gb, num_shapes

MOST_IMAGES = 1 << 14
"""In a batch: more than any card holds."""
CONTEXT_GB = 0.6
"""CUDA's own, once per process; the measurements' processes differ by a few tenths."""
RESERVE_GB = 0.5
"""What the allocator holds beyond its peak, and the libraries' workspaces."""
UNET_GB: Mapping[Family, float] = {"sd1": 1.72, "sd2": 1.73, "sdxl": 5.14}
"""Weights in 16 bits: 859.5 M, 865.9 M and 2,567.5 M numbers."""
TEXT_ENCODERS_GB: Mapping[Family, float] = {"sd1": 0.25, "sd2": 0.68, "sdxl": 1.64}
"""Weights in 16 bits; nothing where their outputs are cached."""
UNET_LORA_PER_DIM: Mapping[Family, int] = {"sd1": 423_936, "sd2": 432_128, "sdxl": 2_659_840}
"""LoRA numbers for each rank, over linear layers and 1x1 convolutions."""
CONV_LORA_PER_DIM: Mapping[Family, int] = {"sd1": 544_000, "sd2": 544_000, "sdxl": 355_840}
"""The same over 3x3 convolutions, for each rank of conv_dim."""
CONV_LINEAR_PER_DIM: Mapping[Family, int] = {"sd1": 82_880, "sd2": 82_880, "sdxl": 58_560}
"""With conv_dim the same blocks' linear layers and 1x1 convolutions are adapted too, by
network_dim."""
TEXT_LORA_PER_DIM: Mapping[Family, int] = {"sd1": 165_888, "sd2": 423_936, "sdxl": 903_168}
IA3_NUMBERS: Mapping[Family, int] = {"sd1": 99_840, "sd2": 99_840, "sdxl": 665_600}
"""(IA)³ by its preset, in the U-Net."""
IA3_TEXT_NUMBERS: Mapping[Family, int] = {"sd1": 55_296, "sd2": 141_312, "sdxl": 301_056}
NATIVE_SIDE: Mapping[Family, int] = {"sd1": 512, "sd2": 512, "sdxl": 1024}
ACTIVATIONS_GB: Mapping[Family, float] = {"sd1": 1.375, "sd2": 1.375, "sdxl": 9.0}
"""An image at the native side, all activations kept."""
CHECKPOINTED_GB: Mapping[Family, float] = {"sd1": 0.50, "sd2": 0.50, "sdxl": 1.7}
"""An image at the native side with gradient checkpointing."""
TEXT_TRAINING_GB: Mapping[Family, tuple[float, float]] = {
    "sd1": (1.1, 2.2),
    "sd2": (1.1, 2.2),
    "sdxl": (2.0, 2.5),
}
"""What training the text encoders takes besides their weights and LoRA, without and with gradient
checkpointing. SD 1.x: the RTX 4090's intercepts; SDXL: what fits 12 GB in sd-scripts issue 661."""


@dataclass(frozen=True, kw_only=True)
class TracedStep:
    """What an image takes at the peak of a step of the built-in trainer, at the family's side, in
    bf16: GB, and GB for each rank of the LoRA, whose inner values are kept too."""

    image_gb: float
    rank_gb: float


TRACED_STEPS: Mapping[Family, tuple[TracedStep, TracedStep]] = {
    "sd1": (
        TracedStep(image_gb=0.7795, rank_gb=0.0005274),
        TracedStep(image_gb=0.2262, rank_gb=0.0001619),
    ),
    "sd2": (
        TracedStep(image_gb=0.7793, rank_gb=0.0005274),
        TracedStep(image_gb=0.2261, rank_gb=0.0001619),
    ),
    "sdxl": (
        TracedStep(image_gb=5.6502, rank_gb=0.0017665),
        TracedStep(image_gb=0.6293, rank_gb=0.0001772),
    ),
}
"""Without and with gradient checkpointing, fitted to `bench/traced.json` within 5 %."""
TRACED_TEXT: Mapping[Family, tuple[TracedStep, TracedStep]] = {
    "sd1": (TracedStep(image_gb=0.0336, rank_gb=0.0), TracedStep(image_gb=0.0120, rank_gb=0.0)),
    "sd2": (
        TracedStep(image_gb=0.0686, rank_gb=0.0000213),
        TracedStep(image_gb=0.0143, rank_gb=0.0),
    ),
    "sdxl": (TracedStep(image_gb=0.2173, rank_gb=0.0), TracedStep(image_gb=0.0889, rank_gb=0.0)),
}
"""The same of training the text encoders besides, at 77 tokens."""
TRACED_CONVOLUTIONS: Mapping[Family, tuple[float, float]] = {
    "sd1": (0.0986, 0.0287),
    "sd2": (0.0989, 0.0291),
    "sdxl": (0.430, 0.117),
}
"""GB more of an image where 3x3 convolutions are adapted too (conv_dim), whose inputs are kept."""
TRACED_PLAIN: Mapping[Family, tuple[float, float]] = {
    "sd1": (0.0187, 0.0237),
    "sd2": (0.0105, 0.0026),
    "sdxl": (0.0103, 0.0210),
}
"""GB more of an image where the LoRA is plain autograd: with its dropouts, and compiled."""
COPIES_BYTES = 4
"""The built-in trainer multiplies with a copy of the LoRA in 16 bits, and writes gradients in 16
bits first: two bytes each for a parameter, besides the 32-bit ones."""
NOT_COPIED = frozenset({"adamw", "adam", "prodigy"})
"""Optimizers whose steps the built-in trainer need not copy anything for, to undo them when the
gradients are not finite: torch's fused ones take a flag, and Prodigy waits for the answer."""
WORKSPACE_GB = 0.3
"""cuBLAS: 32 MiB a handle on Hopper, 8 MiB before it (torch's CUDA notes on
CUBLAS_WORKSPACE_CONFIG); the rest is left for cuDNN's convolutions, which nobody published."""
ALLOCATOR_SHARE = 0.05
"""What the allocator holds beyond the step's own peak, of that peak: assumed, not measured."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is trained, apart from the batch.

    `pixels` is the area of the largest bucket. `half_lora` is set where the LoRA itself is held in
    16 bits (full_bf16, full_fp16), `full_precision` where nothing is.
    """

    family: Family
    pixels: int
    network_dim: int
    conv_dim: int = 0
    is_ia3: bool = False
    """(IA)³, which has no rank."""
    unet_trained: bool = True
    text_encoder_trained: bool = False
    text_encoder_held: bool = False
    """Its weights stay on the card though they are not trained: outputs are not cached."""
    optimizer: str = "AdamW8bit"
    half_lora: bool = False
    half_base: bool = False
    """The base's own weights are held in 8 bits (fp8_base)."""
    full_precision: bool = False
    num_processes: int = 1
    engine: Trainer = "sd-scripts"
    """Which trainer: each has a model of its own."""
    plain_lora: bool = False
    """The built-in trainer's LoRA as plain autograd, which dropouts and torch.compile need."""
    averaged: bool = False
    """The built-in trainer holds a moving average of the LoRA beside it (ema)."""
    cuda_graphs: bool = False
    """Passes are replayed where nothing keeps them from it; the time that it gains counts only on a
    card that has measured it."""
    num_buckets: int = 1
    tokens: int = 77
    """Of a caption."""
    blocks_to_swap: int = 0
    """Of a transformer: how many blocks wait in memory, in sd-scripts' counting."""
    text_gb: float | None = None
    """What the text encoders take on the card while captions are encoded, in 1e9 bytes; None is the
    family's in 16 bits."""

    @property
    def is_traced(self) -> bool:
        """Its memory is that of the built-in trainer's traced step."""
        return self.engine == "native" and self.family in TRACED_STEPS

    @property
    def transformer(self) -> Transformer | None:
        return FAMILIES[self.family].transformer

    @property
    def lora_parameters(self) -> int:
        """Numbers that are trained."""
        if size := self.transformer:
            text = size.text_lora_per_dim * self.text_encoder_trained
            return self.network_dim * (size.lora_per_dim * self.unet_trained + text)
        if self.is_ia3:
            unet, text = IA3_NUMBERS[self.family], IA3_TEXT_NUMBERS[self.family]
            return unet * self.unet_trained + text * self.text_encoder_trained
        unet = UNET_LORA_PER_DIM[self.family] * self.network_dim
        if self.conv_dim:
            unet += CONV_LORA_PER_DIM[self.family] * self.conv_dim
            unet += CONV_LINEAR_PER_DIM[self.family] * self.network_dim
        text = TEXT_LORA_PER_DIM[self.family] * self.network_dim
        return unet * self.unet_trained + text * self.text_encoder_trained

    @property
    def bytes_per_parameter(self) -> float:
        """Weight, gradient and optimizer state; several processes gather gradients in a copy."""
        states = state_bytes(self.optimizer)
        width = 2 if self.half_lora else 4
        if self.half_lora and states >= 4:
            states /= 2
        copies = COPIES_BYTES if self.is_traced and not self.full_precision else 0
        copies += 4 if self.is_traced and self.averaged else 0
        return width * (3 if self.num_processes > 1 else 2) + states + copies


def memory_parts(
    load: Load,
    *,
    batch_size: int,
    gradient_checkpointing: bool,
    checkpointed_blocks: int | None = None,
) -> Mapping[str, float]:
    """GB by what they are for. `context` and `reserve` are outside the allocator's own peak.

    `checkpointed_blocks` is how many of the U-Net's blocks gradient checkpointing recomputes, which
    only the built-in trainer can choose; None is all.
    """
    width = 2 if load.full_precision else 1
    if load.transformer:
        return _transformer_parts(load, load.transformer, batch_size, gradient_checkpointing)
    if load.is_traced:
        image = per_image_gb(
            load,
            gradient_checkpointing=gradient_checkpointing,
            checkpointed_blocks=checkpointed_blocks,
        )
        passes = image * batch_size
        # The update follows when the passes have let go of their tensors.
        activations = max(passes, update_gb(load))
        if _replays(load, gradient_checkpointing):
            activations = passes + _beside_graphs_gb(load, passes, batch_size)
        return _traced_parts(load, activations)
    text = load.text_encoder_trained or load.text_encoder_held
    training_text = TEXT_TRAINING_GB[load.family][gradient_checkpointing] * width
    return {
        "context": CONTEXT_GB,
        "weights": UNET_GB[load.family] * (0.5 if load.half_base else width),
        "text encoders": TEXT_ENCODERS_GB[load.family] * width * text
        + training_text * load.text_encoder_trained,
        "LoRA and optimizer": load.lora_parameters * load.bytes_per_parameter / 1e9,
        "activations": per_image_gb(load, gradient_checkpointing=gradient_checkpointing)
        * batch_size,
        "reserve": RESERVE_GB,
    }


def _replays(load: Load, gradient_checkpointing: bool) -> bool:
    """Whether passes are CUDA graphs: not with recomputed dropouts."""
    return load.cuda_graphs and not (load.plain_lora and gradient_checkpointing)


def _beside_graphs_gb(load: Load, passes: float, batch_size: int) -> float:
    inputs = inputs_gb(
        load.family,
        pixels=load.pixels,
        tokens=load.tokens,
        trains_text=load.text_encoder_trained,
        full_precision=load.full_precision,
    )
    return beside_pool_gb(
        shapes=num_shapes(load.num_buckets, batch_size),
        inputs=inputs * batch_size,
        passes=passes,
        update=update_gb(load),
        full_precision=load.full_precision,
    )


def _traced_parts(load: Load, activations: float) -> dict[str, float]:
    """As `memory_parts`, of the built-in trainer, whose passes and update take so many GB."""
    width = 2 if load.full_precision else 1
    text = load.text_encoder_trained or load.text_encoder_held
    return {
        "context": CONTEXT_GB,
        "weights": UNET_GB[load.family] * width,
        "text encoders": TEXT_ENCODERS_GB[load.family] * width * text,
        "LoRA and optimizer": load.lora_parameters * load.bytes_per_parameter / 1e9,
        "activations": activations,
        "reserve": WORKSPACE_GB + ALLOCATOR_SHARE * activations,
    }


def update_gb(load: Load) -> float:
    """What the built-in trainer's update takes: copies of the weights and of the optimizer's state,
    by which a step that is not finite is undone."""
    if load.optimizer.lower() in NOT_COPIED:
        return 0.0
    return load.lora_parameters * (4 + state_bytes(load.optimizer)) / 1e9


def needed_gb(
    load: Load,
    *,
    batch_size: int,
    gradient_checkpointing: bool,
    checkpointed_blocks: int | None = None,
) -> float:
    """Peak memory of the training process in GB."""
    parts = memory_parts(
        load,
        batch_size=batch_size,
        gradient_checkpointing=gradient_checkpointing,
        checkpointed_blocks=checkpointed_blocks,
    )
    return max(sum(parts.values()), encoding_gb(load))


def encoding_gb(load: Load) -> float:
    """What encoding the captions takes before the training, while a transformer waits in memory; 0
    where the text encoders are on the card all the time, or small."""
    if load.transformer is None or load.text_encoder_held or load.text_encoder_trained:
        return 0.0
    return CONTEXT_GB + _text_gb(load, load.transformer) + RESERVE_GB


def _text_gb(load: Load, size: Transformer) -> float:
    return size.text_gb if load.text_gb is None else load.text_gb


def _transformer_parts(
    load: Load, size: Transformer, batch_size: int, gradient_checkpointing: bool
) -> dict[str, float]:
    """As `memory_parts`: text encoders that are trained or whose outputs are not cached stay on the
    card, all of them; what training CLIP takes is SDXL's."""
    width = 4 if load.full_precision else 1 if load.half_base else 2
    moved = size.blocks.swapped_parameters(load.blocks_to_swap)
    text = load.text_encoder_trained or load.text_encoder_held
    per_image = per_image_gb(load, gradient_checkpointing=gradient_checkpointing)
    return {
        "context": CONTEXT_GB,
        "weights": (size.parameters - moved) * width / 1e9,
        "text encoders": _text_gb(load, size) * text
        + TEXT_TRAINING_GB["sdxl"][gradient_checkpointing] * load.text_encoder_trained,
        "LoRA and optimizer": load.lora_parameters * load.bytes_per_parameter / 1e9,
        "activations": per_image * batch_size,
        "reserve": RESERVE_GB,
    }


def largest_batch(
    load: Load,
    *,
    free_gb: float,
    gradient_checkpointing: bool,
    checkpointed_blocks: int | None = None,
) -> int:
    """The largest batch that fits in `free_gb`; 0 where not even one image does."""

    def needed(batch_size: int) -> float:
        return needed_gb(
            load,
            batch_size=batch_size,
            gradient_checkpointing=gradient_checkpointing,
            checkpointed_blocks=checkpointed_blocks,
        )

    return bisect_right(range(1, MOST_IMAGES), free_gb, key=needed)


def per_image_gb(
    load: Load, *, gradient_checkpointing: bool, checkpointed_blocks: int | None = None
) -> float:
    """What one more image in a step takes: about linear in pixels (counts of traced U-Nets)."""
    if size := load.transformer:
        share = load.pixels / FAMILIES[load.family].side ** 2
        each = size.checkpointed_gb if gradient_checkpointing else size.activations_gb
        return each * share * (2 if load.full_precision else 1)
    if load.is_traced:
        if gradient_checkpointing and checkpointed_blocks is not None:
            return _partly_traced_gb(load, checkpointed_blocks)
        return sum(_traced_image_gb(load, gradient_checkpointing))
    table = CHECKPOINTED_GB if gradient_checkpointing else ACTIVATIONS_GB
    share = load.pixels / NATIVE_SIDE[load.family] ** 2
    return table[load.family] * share * (2 if load.full_precision else 1)


def _partly_traced_gb(load: Load, checkpointed_blocks: int) -> float:
    """The same where some of the U-Net's blocks are recomputed, and nothing of text encoders."""
    kept, text = _traced_image_gb(load, False)
    recomputed, _ = _traced_image_gb(load, True)
    freed = shares_of(load.family, checkpointed_blocks).memory
    return kept - freed * (kept - recomputed) + text


def _traced_image_gb(load: Load, gradient_checkpointing: bool) -> tuple[float, float]:
    """An image in a step of the built-in trainer, in the U-Net and in text encoders. Captions take
    the same whatever the pixels."""
    width = 2 if load.full_precision else 1
    step = TRACED_STEPS[load.family][gradient_checkpointing]
    share = load.pixels / NATIVE_SIDE[load.family] ** 2
    found = step.image_gb + step.rank_gb * load.network_dim
    if load.conv_dim:
        found += TRACED_CONVOLUTIONS[load.family][gradient_checkpointing]
    if load.plain_lora:
        found += TRACED_PLAIN[load.family][gradient_checkpointing]
    words = 0.0
    if load.text_encoder_trained:
        text = TRACED_TEXT[load.family][gradient_checkpointing]
        words = text.image_gb + text.rank_gb * load.network_dim
    factor = width * _measured_share(load.family, gradient_checkpointing)
    return found * share * factor, words * factor


def is_measured(family: Family, engine: Trainer) -> bool:
    """Whether a card has measured what a trainer takes for a family."""
    return any((row.family, row.engine) == (family, engine) for row in measured_memory())


@cache
def _measured_share(family: Family, gradient_checkpointing: bool) -> float:
    """What images took on cards over what was traced, the geometric mean over the rows that were
    measured with the built-in trainer; 1 where there is none."""
    logs: list[float] = []
    for row in measured_memory():
        if (row.engine, row.family) != ("native", family):
            continue
        if row.gradient_checkpointing != gradient_checkpointing:
            continue
        images, others = _traced_row(row)
        if images < update_gb(_load_of(row)):
            continue  # its peak is not that of the images
        logs.append(math.log(max(row.gb - others, 0.01) / images))
    return math.exp(math.fsum(logs) / len(logs)) if logs else 1.0


def _traced_row(row: MeasuredMemory) -> tuple[float, float]:
    """What was traced for a measured row's images, and what all else is known to take, in GB."""
    step = TRACED_STEPS[row.family][row.gradient_checkpointing]
    share = row.side**2 / NATIVE_SIDE[row.family] ** 2
    image = (step.image_gb + step.rank_gb * row.network_dim) * share
    if row.text_encoder_trained:
        text = TRACED_TEXT[row.family][row.gradient_checkpointing]
        image += text.image_gb + text.rank_gb * row.network_dim
    load = _load_of(row)
    others = UNET_GB[row.family] + TEXT_ENCODERS_GB[row.family] * row.text_encoder_trained
    others += load.lora_parameters * load.bytes_per_parameter / 1e9
    others += CONTEXT_GB if row.scope == "process" else 0.0
    return image * row.batch_size, others


def _load_of(row: MeasuredMemory) -> Load:
    return Load(
        family=row.family,
        pixels=row.side**2,
        network_dim=row.network_dim,
        text_encoder_trained=row.text_encoder_trained,
        engine="native",
    )

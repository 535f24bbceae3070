"""How long a training step takes on a card, before it was ever run there.

A step is bound by kernel launches when it is small and by arithmetic when it is large:
`((launches)^1.5 + (work / (peak x use))^1.5)^(1/1.5)`, in seconds. Work is counted by tracing the
U-Nets; launches and use are fitted to public measurements of sd-scripts and SimpleTuner
(`cards/measured.toml`; `bench/calibration.py` prints model against measurement). Those cards sit in
servers and desktops of their time: a slower host CPU launches more slowly. Once a run has made its
first steps its own time counts, not this.

Not known: SD 2.x (taken as SD 1.x), cards before Ampere, float32, torch.compile.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tenner.core.family import Family
from tenner.core.messages import msg
from tenner.families import FAMILIES
from tenner.hardware.cards import card_named
from tenner.hardware.cards.measured import MeasuredSpeed, Trainer, measured_speed
from tenner.planning.checkpointing import shares_of
from tenner.planning.vram import NATIVE_SIDE, Load
from tenner.sample.placement import Placement, placement_of

LAUNCH_SECONDS: Mapping[Family, float] = {"sd1": 0.17, "sd2": 0.17, "sdxl": 0.60}
"""The least time of a step, however fast the card."""
TEXT_LAUNCH_SECONDS: Mapping[Family, float] = {"sd1": 0.05, "sd2": 0.10, "sdxl": 0.20}
"""More where sd-scripts trains text encoders: fitted for SDXL's 264 modules, by number for the
others."""
KERNELS: Mapping[Family, Mapping[Trainer, int]] = {
    "sd1": {"sd-scripts": 4_600, "native": 1_892},
    "sd2": {"sd-scripts": 4_600, "native": 1_892},
    "sdxl": {"sd-scripts": 15_400, "native": 5_569},
}
"""Kernels of a training step (`bench.engine_ops`), by which the launches of the built-in trainer
are sd-scripts' measured ones: no card has timed its own."""
TEXT_KERNELS: Mapping[Family, tuple[int, int]] = {
    "sd1": (147, 631),
    "sd2": (233, 1_042),
    "sdxl": (466, 2_035),
}
"""Kernels of the built-in trainer's text encoders: for encoding a caption, each of which it encodes
alone, and for a step of a batch in which they are trained (`bench.engine_ops`)."""
CLIP_KERNELS: Mapping[Family, int] = {"sd1": 0, "sd2": 0, "sdxl": 576}
"""Kernels of sd-scripts for encoding a batch of captions (`bench.engine_ops`). With SD 1.x and 2.x
it does so in every step: there the launches that were measured hold them."""
CHECKPOINTING_LAUNCHES = 1.7
"""Forward runs twice."""
USE: Mapping[Family, float] = {"sd1": 0.16, "sd2": 0.16, "sdxl": 0.42}
"""Share of the card's peak that large steps reach."""
STEP_TFLOP: Mapping[Family, tuple[float, float]] = {
    "sd1": (1.844, 2.670),
    "sd2": (1.844, 2.670),
    "sdxl": (15.01, 21.95),
}
"""Work of an image at the native side, without and with gradient checkpointing."""
PIXEL_POWER: Mapping[Family, float] = {"sd1": 1.31, "sd2": 1.31, "sdxl": 1.13}
"""Attention grows faster than pixels: counted at 512 and 768 (SD 1.x), 768 and 1024 (SDXL)."""
FORWARD_TFLOP: Mapping[Family, float] = {"sd1": 0.803, "sd2": 0.803, "sdxl": 6.761}
"""Work of one denoising step of one picture at the native side."""
FORWARD_LAUNCHES = 0.18
"""Kernel launches of a bare U-Net's forward pass to those of a training step: 3,062 to 17,000 in
SDXL, by tracing."""
BLEND = 1.5
_NO_MATTER = 1  # of network_dim: the model's time does not depend on it
BUS_BYTES_PER_SECOND = 20e9
"""PCI Express 4.0 with 16 lanes, from pinned memory: two thirds of its 32 GB/s."""
TRANSFORMER_PIXEL_POWER = 1.13
"""SDXL's, whose attention has a like share of the work."""
ERROR = 0.25
"""How far the model may be off, as a share: 10 % at worst on the few cards it has seen."""
UNTIMED_ERROR = 0.5
"""The same of the built-in trainer on a card that has not timed it: its launches and its share of
the peak are sd-scripts', and both may be better."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of an optimizer step and where they come from."""

    seconds: float
    is_measured: bool
    """Scaled by measurements of this very card and family."""
    source: str
    error: float = ERROR
    """How far it may be off, as a share."""


def step_time(
    load: Load,
    *,
    gpu_name: str,
    batch_size: int,
    gradient_checkpointing: bool,
    checkpointed_blocks: int | None = None,
    accumulation: int = 1,
) -> StepTime | None:
    """Expected seconds of an optimizer step; None for a card whose peak is not known, or in
    float32."""
    card = card_named(gpu_name)
    if card is None or card.peak_tflops is None or load.full_precision:
        return None
    seconds = modelled_seconds(
        load,
        peak_tflops=card.peak_tflops,
        batch_size=batch_size,
        gradient_checkpointing=gradient_checkpointing,
        checkpointed_blocks=checkpointed_blocks,
    )
    seconds = (seconds + swapping_seconds(load)) * accumulation
    factor, sources = _by_measurement(card.name, load.family, load.engine, load.cuda_graphs)
    source = "; ".join(sources) or msg("the time model, from the card's peak")
    error = load.transformer.error if load.transformer else ERROR
    if load.engine == "native" and not sources:
        error = UNTIMED_ERROR
    return StepTime(seconds=seconds * factor, is_measured=bool(sources), source=source, error=error)


def swapping_seconds(load: Load) -> float:
    """What moving a transformer's blocks adds to a pass: each goes out and comes in, in the forward
    and in the backward pass, and half of it hides behind the computing. Not measured."""
    if load.transformer is None or not load.blocks_to_swap:
        return 0.0
    moved = load.transformer.blocks.swapped_parameters(load.blocks_to_swap)
    return 4 * moved * (1 if load.half_base else 2) / BUS_BYTES_PER_SECOND / 2


def modelled_seconds(
    load: Load,
    *,
    peak_tflops: float,
    batch_size: int,
    gradient_checkpointing: bool,
    checkpointed_blocks: int | None = None,
) -> float:
    """Seconds of a pass and its update by the model alone, without a transformer's swapping.
    Recomputing some of the blocks costs their share of what recomputing all does."""
    family = load.family
    work = _work_of(family)
    kernels = arithmetic_share = float(gradient_checkpointing)
    if gradient_checkpointing and checkpointed_blocks is not None:
        shares = shares_of(family, checkpointed_blocks)
        kernels, arithmetic_share = shares.kernels, shares.work
    launches = work.launches * (1 + (CHECKPOINTING_LAUNCHES - 1) * kernels)
    launches *= launch_share(family, load.engine)
    launches += _text_launches(load, batch_size)
    kept, recomputed = work.step_tflop
    tflop = kept + (recomputed - kept) * arithmetic_share
    tflop *= batch_size * work.share(load.pixels)
    arithmetic = tflop / (peak_tflops * work.use)
    return (launches**BLEND + arithmetic**BLEND) ** (1 / BLEND)


def _text_launches(load: Load, batch_size: int) -> float:
    """Seconds that text encoders take to launch in a step. Their arithmetic is under 2 % of it."""
    family, trained = load.family, load.text_encoder_trained
    if not trained and not load.text_encoder_held:
        return 0.0
    if family not in KERNELS:
        return _work_of(family).text_launches * trained
    if load.engine == "sd-scripts" and trained:
        return TEXT_LAUNCH_SECONDS[family]
    encoding, training = TEXT_KERNELS[family]
    kernels = training if trained else encoding * batch_size
    if load.engine == "sd-scripts":
        kernels = CLIP_KERNELS[family]
    return kernels * LAUNCH_SECONDS[family] / KERNELS[family]["sd-scripts"]


def launch_share(family: Family, engine: Trainer) -> float:
    """Kernels that a trainer launches for a step, of sd-scripts' number."""
    kernels = KERNELS.get(family)
    return kernels[engine] / kernels["sd-scripts"] if kernels else 1.0


DENOISER = "transformer"
STREAMED_GB_S = 4.5
"""Copies of memory that is not pinned to a card: 4.5 GB/s over PCIe 2.0 x16 (J. Habich,
johanneshabich.blogspot.com, September 2009). Newer machines are faster, none was measured."""
_CONTEXT_GB = 0.6
"""What CUDA itself takes of a card."""


def drawn_from(family: Family, gpu_name: str) -> Placement | None:
    """Where a transformer and its encoders lie while the card draws, by its nameplate; None for
    other families and unknown cards."""
    size, card = FAMILIES[family].transformer, card_named(gpu_name)
    if size is None or card is None:
        return None
    sizes = {each.option: each.gb * 1e9 for each in FAMILIES[family].files}
    free = card.free_mib * 2**20 - _CONTEXT_GB * 1e9
    return placement_of({**sizes, DENOISER: 2 * size.parameters}, free, denoiser=DENOISER)


def picture_seconds(
    family: Family, *, pixels: int, gpu_name: str, num_steps: int, is_streamed: bool = False
) -> float | None:
    """Seconds to draw a sample, by the same model; not fitted to any measurement of drawing. With a
    negative prompt a step makes two pictures; `is_streamed` is whether the weights, in 8 bits, are
    copied to the card for each of them. None for a card whose peak is not known."""
    card = card_named(gpu_name)
    if card is None or card.peak_tflops is None:
        return None
    work = _work_of(family)
    passes = 2 if FAMILIES[family].drawing.takes_negative else 1
    tflop = passes * work.forward_tflop * work.share(pixels)
    arithmetic = tflop / (card.peak_tflops * work.use)
    launches = work.launches * FORWARD_LAUNCHES
    each = (launches**BLEND + arithmetic**BLEND) ** (1 / BLEND)
    size = FAMILIES[family].transformer
    if size and is_streamed:
        each += passes * size.parameters / 1e9 / STREAMED_GB_S
    return each * num_steps


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What the time model knows of a family: launches in seconds, work at `side`² pixels."""

    launches: float
    text_launches: float
    use: float
    step_tflop: tuple[float, float]
    forward_tflop: float
    side: int
    power: float

    def share(self, pixels: int) -> float:
        """Work of `pixels` over that of the family's own size."""
        return (pixels / self.side**2) ** self.power


def _work_of(family: Family) -> _Work:
    facts = FAMILIES[family]
    if facts.transformer:
        return _Work(
            launches=LAUNCH_SECONDS["sdxl"],
            text_launches=TEXT_LAUNCH_SECONDS["sdxl"],
            use=facts.transformer.use,
            step_tflop=facts.transformer.step_tflop,
            forward_tflop=facts.transformer.forward_tflop,
            side=facts.side,
            power=TRANSFORMER_PIXEL_POWER,
        )
    return _Work(
        launches=LAUNCH_SECONDS[family],
        text_launches=TEXT_LAUNCH_SECONDS[family],
        use=USE[family],
        step_tflop=STEP_TFLOP[family],
        forward_tflop=FORWARD_TFLOP[family],
        side=NATIVE_SIDE[family],
        power=PIXEL_POWER[family],
    )


def modelled_row(row: MeasuredSpeed) -> float:
    """The model's seconds a step for a measured row. Raises ValueError without a known peak."""
    card = card_named(row.card)
    if card is None or card.peak_tflops is None:
        raise ValueError(f"no peak known for {row.card}")
    load = Load(
        family=row.family,
        pixels=row.side**2,
        network_dim=_NO_MATTER,
        text_encoder_trained=row.text_encoder_trained,
        engine=row.engine,
    )
    seconds = modelled_seconds(
        load,
        peak_tflops=card.peak_tflops,
        batch_size=row.batch_size,
        gradient_checkpointing=row.gradient_checkpointing,
    )
    return seconds * row.gradient_accumulation_steps


@cache
def _by_measurement(
    card: str, family: Family, engine: Trainer, cuda_graphs: bool = False
) -> tuple[float, tuple[str, ...]]:
    """Measured over modelled on one card by one trainer, the geometric mean of its rows, and their
    sources. CUDA graphs gain what a card has measured of them, and nothing where none has."""
    of_the_card = [
        row
        for row in measured_speed()
        if (row.card, row.family, row.engine) == (card, family, engine)
    ]
    without = [row for row in of_the_card if not row.cuda_graphs]
    rows = [row for row in of_the_card if row.cuda_graphs and cuda_graphs] or without
    if not rows:
        return 1.0, ()
    logs = [math.log(row.seconds_per_step / modelled_row(row)) for row in rows]
    return math.exp(math.fsum(logs) / len(logs)), tuple(dict.fromkeys(r.source for r in rows))

"""How a card and a dataset shape a run: precision, optimizer, batch, attention, workers.

Pure, and the same for the card that is here and for one that is only named, so that
`tenner plan --gpu NAME` on a laptop decides as the run on that card will.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tenner.core.errors import Problem, SettingsError
from tenner.core.family import Family
from tenner.core.graph_obstacle import graph_obstacle
from tenner.core.messages import msg
from tenner.families import FAMILIES
from tenner.kohya.networks import is_ia3
from tenner.planning.batch_choice import HEADROOM, BatchChoice, CardMemory, Choice, Wish
from tenner.planning.checkpointing import num_blocks
from tenner.planning.levers import fit_transformer
from tenner.planning.plan import Device, EngineName, Shape
from tenner.planning.sizing import choose_batch, fill_up
from tenner.planning.vram import Load, is_measured
from tenner.rules.written import keyword_arguments
from tenner.settings.model import Settings

Precision = Literal["no", "fp16", "bf16"]
Size = tuple[int, int]

_PREFETCHED = 2  # batches that torch's DataLoader prefetches for each worker
_CHANGING_CAPTIONS = ("shuffle_caption", "caption_tag_dropout_rate")
_DROPOUTS = ("dropout", "rank_dropout", "module_dropout")
_DROPPED_CAPTIONS = ("caption_dropout_rate", "caption_dropout_every_n_epochs")
"""Of a caption that is dropped whole our own engine caches the encoded empty text."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a run is shaped by, besides its settings.

    `buckets` holds image passes by (width, height); `broken` the trainer's libraries that do not
    import, each with its error message.
    """

    device: Device
    card: CardMemory
    capability: tuple[int, int] | None
    engine: EngineName
    family: Family
    is_tiny: bool
    resolution: Size
    buckets: Mapping[Size, int]
    cpus: float = 1.0
    shm_mib: int = 64
    broken: Mapping[str, str] | None = None
    text_gb: float | None = None
    """Of the text encoders' own files, where they are known."""

    @property
    def most_images(self) -> int:
        """What the fullest bucket can give to one batch."""
        return max(self.buckets.values(), default=1)

    @property
    def largest_area(self) -> int:
        """Pixels of the largest bucket."""
        areas = [width * height for width, height in self.buckets]
        return max(areas, default=self.resolution[0] * self.resolution[1])

    def trouble_with(self, library: str) -> str | None:
        return (self.broken or {}).get(library)


@dataclass(frozen=True, kw_only=True)
class Shaped:
    """The shape with what it was decided from. `load` is None where no card is used."""

    shape: Shape
    batch: BatchChoice
    optimizer: str
    load: Load | None
    choices: tuple[Choice, ...]
    problems: tuple[Problem, ...] = ()


def shape_run(settings: Settings, ground: Ground) -> Shaped:
    """Decide all that the card and the data decide.

    Raises SettingsError where the settings cannot be met on this card, MachineError where the
    card cannot take the job at all.
    """
    precision, why_precision = _precision(settings, ground)
    optimizer, why_optimizer, optimizer_trouble = choose_optimizer(settings, ground)
    attention, why_attention, attention_trouble = choose_attention(settings, ground)
    load, fitted = None, None
    if ground.device == "cuda" and not ground.is_tiny:
        load = load_of(settings, ground, optimizer=optimizer, precision=precision)
        wish = wish_of(settings, ground)
        if load.transformer:
            fitted = fit_transformer(settings, load, ground.card, wish)
            load, batch = fitted.load, fitted.batch
        else:
            batch = choose_batch(load, ground.card, wish)
    else:
        batch = _unmeasured_batch(settings, ground)
    workers, why_workers = choose_workers(settings, ground, batch.batch_size)
    choices = (
        Choice(name="batch size", value=str(batch.batch_size), reason=batch.reason),
        Choice(
            name="checkpointing",
            value=_checkpointing_words(batch, ground.family),
            reason=batch.why_checkpointing,
        ),
        *(fitted.choices if fitted else ()),
        *_memory_source(load),
        Choice(name="accumulation", value=str(batch.accumulation), reason=batch.why_accumulation),
        Choice(name="precision", value=precision, reason=why_precision),
        Choice(name="attention", value=attention, reason=why_attention),
        Choice(name="optimizer", value=optimizer, reason=why_optimizer),
        Choice(name="workers", value=str(workers), reason=why_workers),
    )
    return Shaped(
        shape=Shape(
            batch_size=batch.batch_size,
            gradient_accumulation_steps=batch.accumulation,
            gradient_checkpointing=batch.gradient_checkpointing,
            checkpointed_blocks=batch.checkpointed_blocks,
            mixed_precision=precision,
            attention=attention,
            num_workers=workers,
            added=fitted.options if fitted else {},
        ),
        batch=batch,
        optimizer=optimizer,
        load=load,
        choices=choices,
        problems=tuple(each for each in (optimizer_trouble, attention_trouble) if each),
    )


def _checkpointing_words(batch: BatchChoice, family: Family) -> str:
    if batch.checkpointed_blocks is None:
        return "on" if batch.gradient_checkpointing else "off"
    return msg(
        "recomputes {number} of {total} blocks",
        number=batch.checkpointed_blocks,
        total=num_blocks(family),
    )


def _memory_source(load: Load | None) -> tuple[Choice, ...]:
    """What the memory's number rests on where it is the built-in trainer's."""
    if load is None or not load.is_traced:
        return ()
    if is_measured(load.family, load.engine):
        return (Choice(name="memory model", value=msg("measured"), reason=msg("on such cards")),)
    reason = msg(
        "the built-in trainer's step, counted without a card; {share} of the memory stay free",
        share=f"{1 - HEADROOM:.0%}",
    )
    return (Choice(name="memory model", value=msg("traced"), reason=reason),)


def wish_of(settings: Settings, ground: Ground) -> Wish:
    """The settings of the batch."""
    return Wish(
        batch_size=settings.batch_size,
        gradient_checkpointing=settings.gradient_checkpointing,
        effective_batch_size=settings.effective_batch_size,
        accumulation=settings.gradient_accumulation_steps,
        most_images=ground.most_images,
        num_processes=settings.num_processes,
    )


def load_of(settings: Settings, ground: Ground, *, optimizer: str, precision: Precision) -> Load:
    """What the card will have to hold."""
    options = settings.engine_options
    text_trained = not settings.network_train_unet_only
    words = keyword_arguments(settings.network_args)
    dropouts = [settings.network_dropout, *(words.get(name) for name in _DROPOUTS)]
    return Load(
        engine=ground.engine,
        family=ground.family,
        pixels=ground.largest_area,
        network_dim=settings.network_dim,
        conv_dim=settings.conv_dim or 0,
        is_ia3=is_ia3(settings.network_module, settings.network_args),
        unet_trained=not settings.network_train_text_encoder_only,
        text_encoder_trained=text_trained,
        text_encoder_held=not text_trained and not _captions_cached(settings, ground),
        optimizer=optimizer,
        half_lora=bool(options.get("full_bf16") or options.get("full_fp16")),
        half_base=any(options.get(each) for each in ("fp8_base", "fp8_base_unet", "fp8_scaled")),
        blocks_to_swap=int(str(options.get("blocks_to_swap") or 0)),
        text_gb=_text_on_card(settings, ground),
        full_precision=precision == "no",
        num_processes=settings.num_processes,
        plain_lora=settings.torch_compile or any(dropouts),
        averaged=settings.ema,
        cuda_graphs=settings.cuda_graphs and _can_have_graphs(settings, ground),
        num_buckets=max(1, len(ground.buckets)),
        tokens=(settings.max_token_length or 75) + 2,
    )


def _text_on_card(settings: Settings, ground: Ground) -> float | None:
    """What the text encoders take of the card while captions are encoded, with the family's options
    that lighten it as they are set; None is the family's own."""
    facts, found = FAMILIES[ground.family], ground.text_gb
    for name, share in facts.captions_shares.items():
        if settings.engine_options.get(name) and facts.transformer:
            found = (facts.transformer.text_gb if found is None else found) * share
    return found


def _can_have_graphs(settings: Settings, ground: Ground) -> bool:
    """Of the built-in trainer, but for dropouts, which checkpointing keeps from it."""
    words = keyword_arguments(settings.network_args)
    obstacle = graph_obstacle(
        on_card=ground.device == "cuda",
        module_dropout=bool(words.get("module_dropout")),
        dropouts=False,
        gradient_checkpointing=False,
        torch_compile=settings.torch_compile,
    )
    return ground.engine == "native" and obstacle is None


def _precision(settings: Settings, ground: Ground) -> tuple[Precision, str]:
    """The precision that the run computes in, and why.

    A CPU computes in float32, whatever `mixed_precision` is: files are written for cards. Only
    `full_bf16`, weights in bf16, holds on a CPU too.
    """
    requested = settings.mixed_precision
    if ground.device == "cuda":
        return choose_precision(requested, capability=ground.capability, gpu_name=ground.card.name)
    if requested == "bf16" and settings.engine_options.get("full_bf16"):
        return "bf16", msg("as set: full_bf16 halves the memory, and a CPU computes it slowly")
    return choose_precision(None, capability=None, gpu_name="")


def choose_precision(
    requested: Precision | None, *, capability: tuple[int, int] | None, gpu_name: str
) -> tuple[Precision, str]:
    """bf16 where the card computes it (8.0 and later), else fp16; the CPU takes float32.

    Raises SettingsError for bf16 on a card that is known to be without it.
    """
    if capability is None and not gpu_name:
        return "no", msg("the CPU computes in float32")
    if capability is None:
        reason = msg(
            "{gpu_name} does not report what it can do; every card computes fp16", gpu_name=gpu_name
        )
        return (requested, msg("as set")) if requested is not None else ("fp16", reason)
    has_bf16 = capability >= (8, 0)
    if requested == "bf16" and not has_bf16:
        raise SettingsError(
            msg("mixed_precision = 'bf16', but {gpu_name} has no bf16", gpu_name=gpu_name),
            fix=msg("set mixed_precision = 'fp16', or leave it out"),
        )
    if requested is not None:
        return requested, msg("as set")
    return ("bf16", msg("the card has it")) if has_bf16 else ("fp16", msg("the card has no bf16"))


def choose_optimizer(settings: Settings, ground: Ground) -> tuple[str, str, Problem | None]:
    """The user's optimizer, its reason and a warning. 8-bit ones are bitsandbytes' and need a card;
    without them the plain optimizer is used, which computes the same in 32 bits."""
    requested = settings.optimizer_type
    if not requested.lower().endswith("8bit"):
        return requested, msg("as set"), None
    plain = requested[: -len("8bit")].removeprefix("Paged")
    if ground.device == "cpu":
        return (
            plain,
            msg(
                "{optimizer} needs an NVIDIA card; {plain} computes the same in 32 bits",
                optimizer=requested,
                plain=plain,
            ),
            None,
        )
    trouble = ground.trouble_with("bitsandbytes")
    if trouble is None:
        return requested, msg("as set") if requested != "AdamW8bit" else msg("the guide's"), None
    return (
        plain,
        msg("bitsandbytes does not work here; {plain} computes the same in 32 bits", plain=plain),
        Problem(
            text=msg(
                "{optimizer} cannot be used, bitsandbytes does not work here ({trouble}):"
                " trained with {plain}, which takes more memory",
                optimizer=requested,
                trouble=trouble,
                plain=plain,
            ),
            fix=msg(
                "reinstall bitsandbytes for this torch, or set optimizer_type = '{plain}'",
                plain=plain,
            ),
            level="warning",
        ),
    )


def choose_attention(
    settings: Settings, ground: Ground
) -> tuple[Literal["xformers", "sdpa"], str, Problem | None]:
    """torch's own attention unless xformers is requested and works."""
    requested = settings.attention
    if requested != "xformers":
        return (
            "sdpa",
            msg("as set") if requested == "sdpa" else msg("torch's own, always there"),
            None,
        )
    if ground.engine == "native":
        text = msg("the built-in trainer has no xformers: attention is computed by torch itself")
        return "sdpa", msg("the built-in trainer's"), Problem(text=text, level="note")
    if ground.device == "cpu":
        text = msg("xformers needs an NVIDIA card: attention is computed by torch itself")
        return "sdpa", msg("xformers needs a card"), Problem(text=text, level="note")
    trouble = ground.trouble_with("xformers")
    if trouble is None:
        return "xformers", msg("as set"), None
    return (
        "sdpa",
        msg("xformers does not work here"),
        Problem(
            text=msg(
                "xformers does not work here ({trouble}): attention is computed by torch itself",
                trouble=trouble,
            ),
            fix=msg("reinstall xformers for this torch, or set attention = 'sdpa'"),
            level="warning",
        ),
    )


def choose_workers(settings: Settings, ground: Ground, batch_size: int) -> tuple[int, str]:
    """Processes that load images: none where latents are cached, else as many as the CPUs and
    /dev/shm allow, which hands the images over."""
    if ground.engine == "native":
        return 0, msg("the built-in trainer keeps all latents in memory")
    if settings.max_data_loader_n_workers is not None:
        return settings.max_data_loader_n_workers, msg("as set")
    if _latents_cached(settings):
        return 0, msg("latents are cached: handed over in the process itself")
    each_mib = _PREFETCHED * batch_size * ground.largest_area * 3 * 4 / 2**20
    by_shm = int(ground.shm_mib / 2 / each_mib)
    by_cpus = int(ground.cpus) - 1
    found = max(0, min(4, by_shm, by_cpus))
    limit = (
        msg("/dev/shm")
        if by_shm < min(4, by_cpus)
        else msg("CPUs")
        if by_cpus < 4
        else msg("usual number")
    )
    return found, msg(
        "by the {limit}: {shm_mib} MiB of /dev/shm, {cpus} CPUs",
        limit=limit,
        shm_mib=ground.shm_mib,
        cpus=f"{ground.cpus:g}",
    )


def _latents_cached(settings: Settings) -> bool:
    options = settings.engine_options
    changing = settings.random_crop or options.get("color_aug")
    return not changing and options.get("cache_latents") is not False


def _captions_cached(settings: Settings, ground: Ground) -> bool:
    """Text encoders leave the card: sd-scripts caches SDXL's outputs, our own engine all that it
    can list before the training."""
    can = ground.family == "sdxl" or FAMILIES[ground.family].transformer is not None
    if ground.engine == "sd-scripts" and not can:
        return False
    set_by_user = settings.engine_options.get("cache_text_encoder_outputs")
    if set_by_user is not None:
        return bool(set_by_user)
    keys = _CHANGING_CAPTIONS + (() if ground.engine == "native" else _DROPPED_CAPTIONS)
    changing = any(getattr(settings, key) for key in keys)
    changing = changing or bool(settings.engine_options.get("enable_wildcard"))
    return not changing


def _unmeasured_batch(settings: Settings, ground: Ground) -> BatchChoice:
    """On a CPU, or with the tiny base, memory does not decide."""
    requested = settings.batch_size
    usual = min(8 if ground.is_tiny else 1, ground.most_images)
    size = requested if isinstance(requested, int) else usual
    where = msg("the tiny base") if ground.is_tiny else msg("a {device}", device=ground.device)
    choice = BatchChoice(
        batch_size=size,
        gradient_checkpointing=bool(settings.gradient_checkpointing),
        needed_gb=None,
        reason=msg("as set")
        if isinstance(requested, int)
        else msg("usual for {where}", where=where),
        why_checkpointing=msg("as set") if settings.gradient_checkpointing else msg("not needed"),
        accumulation=settings.gradient_accumulation_steps,
        why_accumulation=msg("as set"),
    )
    return fill_up(choice, wish_of(settings, ground))

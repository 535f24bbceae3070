"""The facts of a run that its model card shows, and the card's pictures."""

import shutil
from collections.abc import Sequence
from dataclasses import replace

from tenner import __version__
from tenner.core.files import write_atomically
from tenner.core.messages import NO_TEXT, Message
from tenner.core.run_dir import RunDir
from tenner.families import FAMILY_NAMES, FamilyFacts
from tenner.kohya.networks import RANKS, is_ia3
from tenner.planning.prepared import Prepared
from tenner.report.loaders import loaders_of
from tenner.report.model_card import CARD_NAME, Card, WidgetPicture, render_card
from tenner.runs.ledger import SavedFile
from tenner.sample.job import Drawn, Sample, Samples
from tenner.settings.known_bases import known_base
from tenner.storage.destination import Destination

_MOST_PICTURES = 4
_USUAL_STRENGTH = 0.8
_SHOWN_OPTIONS = (
    "network_dim",
    "network_alpha",
    "conv_dim",
    "conv_alpha",
    "network_dropout",
    "optimizer_type",
    "unet_lr",
    "text_encoder_lr",
    "network_train_unet_only",
    "lr_scheduler",
    "lr_warmup_steps",
    "train_batch_size",
    "gradient_accumulation_steps",
    "mixed_precision",
    "seed",
    "clip_skip",
    "min_snr_gamma",
    "noise_offset",
    "ema_decay",
)
"""Options with which others can judge or repeat the training; none of them can be a path."""


def write_card(
    prepared: Prepared,
    run_dir: RunDir,
    drawn: Drawn | None,
    destinations: Sequence[Destination],
    *,
    num_steps: int,
) -> None:
    """Write the card and its pictures into the run's directory. `num_steps` are the trained steps.

    Raises OSError.
    """
    pictures = _pictures(run_dir, drawn)
    card = card_of(prepared, pictures, destinations, has_grid=drawn is not None)
    planned = prepared.plan.length.num_steps
    if num_steps < planned:
        card = _early(card, num_steps, planned)
    write_atomically(run_dir.path / CARD_NAME, render_card(card))


def write_card_of_checkpoint(
    prepared: Prepared,
    run_dir: RunDir,
    newest: SavedFile,
    destinations: Sequence[Destination],
    *,
    why: str,
) -> None:
    """Write the card of a training that ended early (`why`), with the checkpoint `newest`.

    Raises OSError.
    """
    card = card_of(prepared, (), destinations, has_grid=False)
    folder = "/".join(part for part in (card.subfolder, "checkpoints") if part)
    weights = f"checkpoints/{newest.name}"
    card = replace(card, weights=weights, subfolder=folder, is_whole_set=False)
    card = _early(card, newest.step, prepared.plan.length.num_steps, why)
    write_atomically(run_dir.path / CARD_NAME, render_card(card))


def _early(card: Card, num_steps: int, planned: int, why: str = "") -> Card:
    """The card of a training that ended early, with the trained steps."""
    early = f"the training ended early, after {num_steps} of {planned} steps"
    steps = ("steps", f"{num_steps} of {planned} planned")
    training = tuple(steps if fact[0] == "steps" else fact for fact in card.training)
    return replace(card, early=f"{early}: {why}" if why else early, training=training)


def card_of(
    prepared: Prepared,
    pictures: tuple[WidgetPicture, ...],
    destinations: Sequence[Destination],
    *,
    has_grid: bool,
) -> Card:
    """The card of this run. Its code loads the LoRA from the first destination on the Hub."""
    plan, base, dataset = prepared.plan, prepared.base, prepared.dataset
    settings = prepared.settings
    found = loaders_of(
        base.facts,
        settings.network_module,
        settings.network_args,
        trains_text=not plan.options.network_train_unet_only,
    )
    hub = next((each for each in destinations if each.kind == "hub"), None)
    return Card(
        name=plan.output_name,
        weights=f"{plan.output_name}.safetensors",
        version=__version__,
        family=FAMILY_NAMES[base.family],
        pipeline=found.pipeline,
        kind=found.kind,
        webui=found.webui,
        has_comfyui=found.has_comfyui,
        converter=found.converter,
        left_out=found.left_out,
        tag=_TAGS.get(base.family, base.family),
        base_name=base.public_name,
        base_id=base.hub_id,
        base_licence=base.licence or _licence(base.facts),
        licence_note=licence_note(settings.base_model, base.facts),
        trigger=dataset.trigger,
        num_images=dataset.num_images,
        num_captions=min(dataset.num_captions, dataset.num_images),  # some may be held out
        has_grid=has_grid,
        load_from=hub.root if hub else ".",
        subfolder=hub.prefix if hub else "",
        training=training_facts(prepared),
        pictures=pictures,
    )


_TAGS = {"sd1": "stable-diffusion", "sd2": "stable-diffusion", "sdxl": "stable-diffusion-xl"}


def licence_note(base_model: str, facts: FamilyFacts) -> Message:
    """What the licence of a base that is known by its name, or its family's, does not allow."""
    known = known_base(base_model)
    own = known.licence_note if known else NO_TEXT
    return own or (facts.licence.note if facts.licence else NO_TEXT)


def _licence(facts: FamilyFacts) -> str:
    return facts.licence.name if facts.licence else ""


def training_facts(prepared: Prepared) -> tuple[tuple[str, str], ...]:
    """Facts of the training, by the names of the settings."""
    plan = prepared.plan
    width, height = plan.resolution
    facts = [
        ("steps", f"{plan.length.num_steps} ({plan.length.num_epochs} epochs)"),
        ("resolution", f"{width}×{height}"),
        ("trainer", plan.engine),
        ("card", plan.gpu or "CPU"),
    ]
    options = plan.options.by_name()
    without = RANKS if is_ia3(plan.options.network_module, plan.options.network_args) else ()
    for name in (each for each in _SHOWN_OPTIONS if each not in without):
        value = options[name]
        if value is not None and value is not False and value != ():
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            facts.append((name, shown))
    return tuple(facts)


def _pictures(run_dir: RunDir, drawn: Drawn | None) -> tuple[WidgetPicture, ...]:
    """Copy a few pictures to `samples/widget-1.png` and so on; earlier ones are removed."""
    for old in run_dir.samples.glob("widget-*.png"):
        old.unlink()
    if drawn is None:
        return ()
    pictures: list[WidgetPicture] = []
    for number, sample in enumerate(shown_samples(Samples.read(drawn.listing).samples), start=1):
        copy = run_dir.samples / f"widget-{number}.png"
        shutil.copyfile(drawn.listing.parent / sample.file, copy)
        cell = sample.cell
        url = f"{run_dir.samples.name}/{copy.name}"
        pictures.append(
            WidgetPicture(url=url, prompt=cell.prompt, negative_prompt=cell.negative_prompt)
        )
    return tuple(pictures)


def shown_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Up to four pictures at the usual strength, of as many prompts as there are."""
    plain = [
        each
        for each in samples
        if each.cell.prompt and not each.cell.ema and each.cell.group.startswith(each.cell.prompt)
    ]
    strengths = {each.cell.strength for each in plain if each.cell.strength > 0}
    if not strengths:
        return []
    usual = min(strengths, key=lambda strength: abs(strength - _USUAL_STRENGTH))
    rounds: dict[str, int] = {}
    ranked: list[tuple[int, Sample]] = []
    for each in plain:
        if each.cell.strength == usual:
            rounds[each.cell.prompt] = rounds.get(each.cell.prompt, 0) + 1
            ranked.append((rounds[each.cell.prompt], each))
    return [each for _, each in sorted(ranked, key=lambda pair: pair[0])][:_MOST_PICTURES]

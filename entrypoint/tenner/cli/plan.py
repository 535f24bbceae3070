"""`tenner plan`: what a run would do, told before anything is paid for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tenner.core.errors import MachineError, Problem, SettingsError, TennerError, errors_in
from tenner.core.messages import msg
from tenner.core.sizes import size_words
from tenner.core.temporary_files import temporary_folder
from tenner.pipeline.everything_wrong import everything_wrong, most_urgent
from tenner.pipeline.preflight import Preflight, prepare
from tenner.pipeline.surroundings import read_surroundings
from tenner.planning.judging import raise_errors
from tenner.planning.plan import plan_json
from tenner.planning.prepared import Prepared
from tenner.planning.sizing import Choice
from tenner.runs.disk import disk_need, disk_problem, full_destinations
from tenner.runs.handover import default_destination
from tenner.settings import Request
from tenner.storage.destination import Destination
from tenner.ui.lines import duration
from tenner.ui.plain_text import print_tables
from tenner.ui.screen import make_screen

if TYPE_CHECKING:
    from tenner.pipeline.comparing import Job, Offer


def print_plan(request: Request, environ: Mapping[str, str], *, as_json: bool) -> None:
    """Print the plan. Raises TennerError where the run could not start."""
    screen = make_screen()
    with temporary_folder("plan") as folder:
        try:
            around = read_surroundings(request.settings, environ)
            raise_errors(around.problems)
            prepared = prepare(
                request,
                environ,
                Path(folder),
                checks=Preflight(try_card=False, fetches_base=False),
            )
            full = _judge_disks(prepared, around.destinations)
        except TennerError as error:
            whole = everything_wrong(error, request, environ)
            if not isinstance(error, MachineError):
                raise whole from error
            elsewhere = Problem(
                text=msg("the plan for another machine needs no card here"),
                fix=msg("tenner plan … --gpu 'RTX 4090' --gpu A100-40, or --gpu all"),
                level="note",
            )
            raise type(whole)(problems=[*whole.problems, elsewhere]) from error
        notices, need = (*around.problems, *prepared.plan.notices, *full), disk_need(prepared.plan)
        if as_json:
            found = _problems_json(notices)
            whole = {**plan_json(prepared.plan), "disk_bytes": need.here, "notices": found}
            print(json.dumps(whole, ensure_ascii=False, indent=1))
            return
        for notice in notices:
            screen.problem(notice)
        print(_headline(prepared))
        disk = Choice(name="disk", value=size_words(need.here), reason=str(need))
        choices = (*prepared.plan.choices, disk)
        width = max(len(choice.name) for choice in choices)
        for choice in choices:
            print(f"  {choice.name:<{width}}  {choice.value}  ({choice.reason})")


def _judge_disks(prepared: Prepared, destinations: Sequence[Destination]) -> tuple[Problem, ...]:
    """Warnings of disks that are too small, here and at folders that are destinations. Raises
    TennerError where `train` would."""
    settings, run_dir = prepared.settings, prepared.settings.run_dir
    to, states = destinations or (default_destination(run_dir),), settings.keep_remote_states
    there = full_destinations(prepared.plan, run_dir, to, kept_states=states)
    here = disk_problem(prepared.plan, run_dir, to, kept_states=states)
    errors: list[TennerError] = []
    if wrong := errors_in(there):
        errors.append(SettingsError(problems=wrong))
    if here:
        errors.append(MachineError(problems=[here]))
    if errors:
        raise most_urgent(errors)
    return there


def _problems_json(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"level": each.level, "text": each.text, "fix": each.fix} for each in problems]


def _headline(prepared: Prepared) -> str:
    plan, dataset = prepared.plan, prepared.dataset
    return (
        f"{plan.output_name}: {plan.length.num_steps} steps over {dataset.num_images} images"
        f" ({dataset.num_image_passes} seen in an epoch), base {plan.base.name}"
    )


def print_comparison(
    request: Request, environ: Mapping[str, str], gpus: Sequence[str], *, as_json: bool
) -> None:
    """Print the same run on cards that are only named, cheapest first. Raises TennerError."""
    from tenner.pipeline.comparing import compare, find_cards, read_job

    cards = find_cards(gpus)
    with temporary_folder("plan") as folder:
        job = read_job(request, environ, Path(folder))
        found = compare(job, cards)
    if as_json:
        rows = [offer.to_json() for offer in found.offers]
        result = {"family": job.family, "offers": rows, "notices": _problems_json(found.notices)}
        print(json.dumps(result, ensure_ascii=False, indent=1))
        return
    screen = make_screen()
    for notice in found.notices:
        screen.problem(notice)
    _print_table(job, found.offers)


def _print_table(job: "Job", offers: "Sequence[Offer]") -> None:
    from rich.table import Table
    from rich.text import Text

    width, height = job.resolution
    table = Table(
        title=f"{job.family_name} at {width}×{height}, {job.dataset.num_images} images",
        title_justify="left",
        pad_edge=False,
        box=None,
    )
    table.add_column("card")
    table.add_column("price", style="dim")
    for name in ("$/hour", "batch", "GB", "steps", "s/step", "time", "cost"):
        table.add_column(name, justify="right")
    for offer in offers:
        if offer.fits:
            table.add_row(*_cells(offer))
    unfit = [f"{offer.card} does not fit: {offer.why_not}" for offer in offers if not offer.fits]
    footnotes = [Text(line, style="dim") for line in _FOOTNOTES]
    print_tables(table, *map(Text, unfit), *footnotes)


_FOOTNOTES = (
    "g: with gradient checkpointing. ?: may not fit. m: measured on such cards by others, else by",
    "the card's peak; a quarter more or less. Time is training and samples, without set-up.",
    "guide: the price and the hours of the guide's own table, for a first run by hand.",
    "Prices are dated: --json tells their sources; price_per_hour takes their place.",
)


def _cells(offer: "Offer") -> list[str]:
    price, seconds = offer.price, offer.seconds_per_step
    is_guide = offer.provider == "guide"
    step = "" if seconds is None or is_guide else f"{seconds:.2f}"
    return [
        f"{offer.card} ({offer.memory_gb} GB)",
        offer.provider or "no price known",
        f"{price.usd_per_hour:.2f}" if price else "",
        batch_cell(offer),
        f"{offer.needed_gb:.1f}{'?' if offer.is_unsure else ''}",
        str(offer.num_steps),
        f"{step}m" if step and offer.is_measured else step,
        duration(offer.seconds) if offer.seconds is not None else "?",
        usd_cell(offer.usd),
    ]


def batch_cell(offer: "Offer") -> str:
    """`4`, `4g` with gradient checkpointing, `4×2` with two batches a step."""
    batch = f"{offer.batch_size}{'g' if offer.gradient_checkpointing else ''}"
    return f"{batch}×{offer.accumulation}" if offer.accumulation > 1 else batch


def usd_cell(amount: float | None) -> str:
    """Dollars; a question mark where no price is known."""
    return "?" if amount is None else f"${amount:.2f}"

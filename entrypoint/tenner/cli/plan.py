"""`tenner plan`: what a run would do, before anything is paid for."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tenner.core.errors import MachineError, Problem, TennerError
from tenner.core.messages import msg
from tenner.core.sizes import size_words
from tenner.families import FAMILIES, FAMILY_NAMES
from tenner.hardware.smi import is_without_driver
from tenner.library.planning import PlanResult, compare, plan, problems_json
from tenner.planning.batch_choice import Choice
from tenner.settings import Request
from tenner.ui.lines import duration
from tenner.ui.plain_text import print_tables
from tenner.ui.screen import Screen, make_screen

if TYPE_CHECKING:
    from tenner.pipeline.comparing import Comparison
    from tenner.pipeline.offer import Offer

USUAL_CARDS = ("RTX 3090", "RTX 4090", "A100 40GB", "H100")
"""Those of the guide's table, and the fastest that every provider rents."""


def print_plan(
    request: Request, environ: Mapping[str, str], *, as_json: bool, quiet: bool = False
) -> None:
    """Print the plan; on a machine without a card, what the run would be on the usual ones.

    Raises TennerError where the run could not start here.
    """
    try:
        found = plan(request, environ=environ)
    except MachineError as error:
        if as_json or not _print_usual_cards(request, environ, quiet=quiet):
            raise
        elsewhere = Problem(
            text=msg("no GPU can be used here: the plan above is for cards to rent"),
            fix=msg("for other cards: tenner plan … --gpu NAME, or --gpu all"),
            level="note",
        )
        raise MachineError(problems=[*error.problems, elsewhere]) from error
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
        return
    screen = make_screen(quiet=quiet)
    for notice in found.notices:
        screen.problem(notice)
    print(_headline(found))
    disk = Choice(name="disk", value=size_words(found.disk.here), reason=str(found.disk))
    choices = (*found.plan.choices, disk)
    width = max(len(choice.name) for choice in choices)
    for choice in choices:
        print(f"  {choice.name:<{width}}  {choice.value}  ({choice.reason})")


def _print_usual_cards(request: Request, environ: Mapping[str, str], *, quiet: bool) -> bool:
    """Print the comparison for `USUAL_CARDS` if no card was expected here and the job is sound."""
    if not is_without_driver(environ):
        return False
    try:
        found = compare(request, USUAL_CARDS, environ=environ)
    except TennerError:  # the same errors as the plan's, which are reported
        return False
    _print_offers(found, make_screen(quiet=quiet))
    return True


def _headline(found: PlanResult) -> str:
    return (
        f"{found.plan.output_name}: {found.plan.length.num_steps} steps over"
        f" {found.num_images} images ({found.num_image_passes} seen in an epoch),"
        f" base {found.plan.base.name}"
    )


def print_comparison(
    request: Request,
    environ: Mapping[str, str],
    gpus: Sequence[str],
    *,
    as_json: bool,
    quiet: bool = False,
) -> None:
    """Print the same run on cards that need not be in this machine, cheapest first.

    Raises TennerError where the job is refused, and, but for JSON, MachineError where it fits none
    of the cards.
    """
    found = compare(request, gpus, environ=environ)
    unfit = [Problem(text=each.why_not, fix=each.fix) for each in found.offers if each.why_not]
    if not as_json and len(unfit) == len(found.offers):
        raise MachineError(problems=unfit)
    if as_json:
        rows = [offer.to_json() for offer in found.offers]
        result = {"family": found.family, "offers": rows, "notices": problems_json(found.notices)}
        print(json.dumps(result, ensure_ascii=False, indent=1))
        return
    _print_offers(found, make_screen(quiet=quiet))


def _print_offers(found: "Comparison", screen: Screen) -> None:
    for notice in found.notices:
        screen.problem(notice)
    _print_table(found)


def _print_table(found: "Comparison") -> None:
    from rich.table import Table
    from rich.text import Text

    width, height = found.resolution
    offers = found.offers
    table = Table(
        title=f"{FAMILY_NAMES[found.family]} at {width}×{height}, {found.num_images} images"
        f"{_seen(offers)}",
        title_justify="left",
        pad_edge=False,
        box=None,
    )
    table.add_column("card")
    table.add_column("price", style="dim")
    has_levers = FAMILIES[found.family].transformer is not None
    weights = ("weights",) * has_levers
    for name in ("$/hour", "batch", *weights, "GB", "updates", "rate", "s/update", "time", "cost"):
        table.add_column(name, justify="right")
    for offer in offers:
        if offer.fits:
            table.add_row(*_cells(offer, has_levers=has_levers))
    unfit = [_unfit(offer) for offer in offers if not offer.fits]
    footnotes = [Text(line, style="dim") for line in _FOOTNOTES]
    print_tables(table, Text(_ten_dollars(offers)), *map(Text, unfit), *footnotes)


def _ten_dollars(offers: "Sequence[Offer]") -> str:
    """Which of the offers with a price are over ten dollars."""
    priced = [each for each in offers if each.usd is not None]
    over = [f"{each.card} ({each.provider})" for each in priced if not each.is_under_ten_dollars]
    if not priced:
        return "No price is known: set price_per_hour to see the cost."
    if not over:
        return "Under ten dollars on each card that has a price."
    return f"Ten dollars or more: {', '.join(over)}."


def _unfit(offer: "Offer") -> str:
    fix = f"\n  fix: {offer.fix}" if offer.fix else ""
    return f"{offer.card} does not fit: {offer.why_not}{fix}"


def _seen(offers: "Sequence[Offer]") -> str:
    """How many images the run sees, each as often as it does."""
    seen = [each.image_passes for each in offers if each.fits and "images" not in each.unlike]
    return f", {max(seen):,} seen in the run" if seen else ""


_FOOTNOTES = (
    "≠: not the same training as the other rows. !: few updates of the weights. The rate is the",
    "U-Net's, for the images of one update (scale_lr).",
    "g: with gradient checkpointing, g9 of nine of the U-Net's blocks. weights: the base's, and",
    "how many of its blocks wait in memory (blocks_to_swap). ?: may not fit. m: measured",
    "on such cards by others, else by the card's peak; a quarter more or less, half with the",
    "built-in trainer, which no card has timed, and of FLUX.1 and its like. Time is without",
    "set-up.",
    "guide: the price and the hours of the guide's own table, for a first run by hand.",
    "Prices are dated: --json names their sources; price_per_hour takes their place.",
)


def _cells(offer: "Offer", *, has_levers: bool) -> list[str]:
    price, seconds = offer.price, offer.seconds_per_step
    is_guide = offer.provider == "guide"
    step = "" if seconds is None or is_guide else f"{seconds:.2f}"
    return [
        f"{offer.card} ({offer.memory_gb} GB)",
        offer.provider or "no price known",
        f"{price.usd_per_hour:.2f}" if price else "",
        f"{batch_cell(offer)}{'≠' if 'batch' in offer.unlike else ''}",
        *((weights_cell(offer),) if has_levers else ()),
        f"{offer.needed_gb:.1f}{'?' if offer.is_unsure else ''}",
        _updates_cell(offer),
        f"{offer.learning_rate:.2g}",
        f"{step}m" if step and offer.is_measured else step,
        duration(offer.seconds) if offer.seconds is not None else "?",
        usd_cell(offer.usd),
    ]


def _updates_cell(offer: "Offer") -> str:
    marks = "≠" if "images" in offer.unlike else ""
    return f"{offer.num_steps:,}{marks}{'!' if offer.is_short else ''}"


def batch_cell(offer: "Offer") -> str:
    """`4`, `4g` with gradient checkpointing (`4g9`: of nine blocks), `4×2` with two batches a
    step."""
    blocks = "" if offer.checkpointed_blocks is None else str(offer.checkpointed_blocks)
    batch = f"{offer.batch_size}{f'g{blocks}' if offer.gradient_checkpointing else ''}"
    return f"{batch}×{offer.accumulation}" if offer.accumulation > 1 else batch


def weights_cell(offer: "Offer") -> str:
    """`16 bits`, `8 bits`, `8 bits, swap 12` with twelve blocks swapped."""
    bits = "8 bits" if offer.half_base else "16 bits"
    return f"{bits}, swap {offer.blocks_to_swap}" if offer.blocks_to_swap else bits


def usd_cell(amount: float | None) -> str:
    """Dollars; a question mark where no price is known."""
    return "?" if amount is None else f"${amount:.2f}"

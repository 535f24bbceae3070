"""`tenner batch JOBS --dry-run`: what all jobs would take and cost, before any is started."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenner.cli.plan import batch_cell, usd_cell
from tenner.core.errors import Problem, SettingsError, TennerError
from tenner.core.messages import msg
from tenner.core.temporary_files import temporary_folder
from tenner.hardware import inspect_machine
from tenner.hardware.cards import Card, card_named
from tenner.pipeline.comparing import compare, find_cards, read_job
from tenner.pipeline.everything_wrong import most_urgent
from tenner.pipeline.offer import Offer
from tenner.queue.jobs import Batch
from tenner.queue.shared import SharedDatasets
from tenner.ui.lines import duration
from tenner.ui.plain_text import print_tables
from tenner.ui.screen import make_screen


@dataclass(frozen=True, kw_only=True)
class PricedJob:
    """A job on each card to compare, or what is wrong with it."""

    name: str
    offers: tuple[Offer, ...] = ()
    error: TennerError | None = None


@dataclass(frozen=True, kw_only=True)
class Total:
    """All jobs, one after the other, on one card at one provider. `usd` is None without a price."""

    card: str
    provider: str
    offers: Mapping[str, Offer]

    @property
    def seconds(self) -> float:
        return sum(each.seconds or 0.0 for each in self.offers.values())

    @property
    def usd(self) -> float | None:
        prices = [each.usd for each in self.offers.values()]
        known = [each for each in prices if each is not None]
        return sum(known) if len(known) == len(prices) else None


def price_batch(
    batch: Batch, environ: Mapping[str, str], *, gpu: str | None, as_json: bool
) -> None:
    """Print each job's steps, time and cost on the card named `gpu`; without one on this machine's,
    else on the card and provider where all of them cost least.

    Raises TennerError with everything that is wrong with any job, once the others are printed.
    """
    cards = find_cards([gpu]) if gpu else _cards_here(environ) or find_cards(["all"])
    with temporary_folder("batch") as folder:
        jobs = _price(batch, environ, cards, Path(folder))
    totals = _totals([each for each in jobs if each.error is None])
    if as_json:
        print(json.dumps(_to_json(jobs, totals), ensure_ascii=False, indent=1))
    else:
        _print(batch, jobs, totals)
    if errors := [each.error for each in jobs if each.error]:
        raise most_urgent(errors)
    if not totals:
        raise SettingsError(
            msg("no single card of those that are compared takes all jobs"),
            fix=msg("run `tenner plan --gpu all` on each job, and split the batch by card"),
        )


def _cards_here(environ: Mapping[str, str]) -> tuple[Card, ...]:
    card = card_named(inspect_machine(environ).gpu_name)
    return (card,) if card else ()


def _price(
    batch: Batch, environ: Mapping[str, str], cards: Sequence[Card], folder: Path
) -> tuple[PricedJob, ...]:
    """Each job on each card, without a GPU: the dataset is read, the rest computed."""
    datasets = SharedDatasets(folder=folder)
    found: list[PricedJob] = []
    for request in batch.jobs:
        name = request.settings.output_name
        try:
            job = read_job(
                request,
                environ,
                folder,
                lambda dataset, workdir: datasets.inspect(
                    dataset, workdir, lambda done, total: None, None
                ),
            )
            found.append(PricedJob(name=name, offers=compare(job, cards).offers))
        except TennerError as error:
            named = [
                replace(each, text=msg("{name}: {text}", name=name, text=each.text))
                for each in error.problems
            ]
            found.append(PricedJob(name=name, error=type(error)(problems=named)))
    return tuple(found)


def _totals(jobs: Sequence[PricedJob]) -> tuple[Total, ...]:
    """Cards and providers that take all jobs, cheapest first; those without a price last."""
    by_provider: dict[tuple[str, str], dict[str, Offer]] = {}
    for job in jobs:
        for offer in job.offers:
            if offer.fits and offer.seconds is not None:
                by_provider.setdefault((offer.card, offer.provider), {})[job.name] = offer
    totals = [
        Total(card=card, provider=provider, offers=offers)
        for (card, provider), offers in by_provider.items()
        if len(offers) == len(jobs)
    ]
    return tuple(sorted(totals, key=lambda each: (each.usd is None, each.usd or each.seconds)))


def _to_json(jobs: Sequence[PricedJob], totals: Sequence[Total]) -> dict[str, Any]:
    return {
        "totals": [
            {
                "card": total.card,
                "provider": total.provider,
                "hours": round(total.seconds / 3600, 3),
                "usd": None if total.usd is None else round(total.usd, 3),
                "jobs": {name: offer.to_json() for name, offer in total.offers.items()},
            }
            for total in totals
        ],
        "refused": {
            each.name: [str(problem) for problem in each.error.problems]
            for each in jobs
            if each.error
        },
    }


def _print(batch: Batch, jobs: Sequence[PricedJob], totals: Sequence[Total]) -> None:
    """Print the cheapest card that takes all jobs, the next three in a line each, and a warning
    where the jobs cost more than the session's limit."""
    from rich.table import Table
    from rich.text import Text

    if not totals:
        return
    best = totals[0]
    where = f"{best.card}, {best.provider}" if best.provider else best.card
    table = Table(title=f"{batch.name} on {where}", title_justify="left", box=None, pad_edge=False)
    table.add_column("job")
    for name in ("steps", "batch", "s/step", "time", "cost"):
        table.add_column(name, justify="right")
    for name, offer in best.offers.items():
        step = f"{offer.seconds_per_step:.2f}" if offer.seconds_per_step else ""
        table.add_row(
            name,
            str(offer.num_steps),
            batch_cell(offer),
            step,
            duration(offer.seconds or 0.0),
            usd_cell(offer.usd),
        )
    table.add_row("all", "", "", "", duration(best.seconds), usd_cell(best.usd), style="bold")
    others = [
        f"{each.card}, {each.provider}: {duration(each.seconds)}, {usd_cell(each.usd)}"
        for each in totals[1:4]
    ]
    lines = [Text(f"next: {line}", style="dim") for line in others]
    print_tables(
        table,
        *lines,
        Text("g: with gradient checkpointing. Without set-up and waiting; nothing was started."),
    )
    limit = batch.options.max_cost_usd
    if limit is not None and best.usd is not None and best.usd > limit:
        make_screen().problem(
            Problem(
                text=msg(
                    "all jobs cost about {usd}, over the session's limit of {limit}: the last ones"
                    " would not be started",
                    usd=usd_cell(best.usd),
                    limit=usd_cell(limit),
                ),
                fix=msg("raise max_cost_usd of [batch], or take jobs out"),
                level="warning",
            )
        )

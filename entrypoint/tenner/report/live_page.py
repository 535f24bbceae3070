"""The run's page: written anew while the run changes, and once more at its end, whatever that is.

Pages are written by a thread of their own that yields to everything else and spends at most
`MAX_SHARE` of its time on them: the training is not to be slowed by being looked at.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tenner.core.errors import BudgetReached, DeliveryError, Problem, Stopped, TennerError
from tenner.core.event_log import read_event_lines
from tenner.core.events import Event, Warned
from tenner.core.files import write_atomically
from tenner.core.messages import msg
from tenner.core.priority import lower_thread_priority
from tenner.core.run_dir import RunDir
from tenner.core.secrets import NO_SECRETS, Secrets
from tenner.hardware.prices import Price, book_price
from tenner.planning.prepared import Prepared
from tenner.report.facts import (
    CostFacts,
    LossCurve,
    Notice,
    ReportFacts,
    SampleSet,
    State,
    redacted,
)
from tenner.report.history import History
from tenner.report.images import PictureStore
from tenner.report.page import render_page
from tenner.report.run_facts import Found, report_facts
from tenner.supervision.budget import Budget

LEAST_SECONDS = 2.0
"""A page is not written oftener than this."""
MAX_SHARE = 0.01
"""Share of one core's time that pages may take during the training."""
SEND_SECONDS = 300.0


@dataclass(kw_only=True)
class LivePage:
    """Writes `report.html` and `live.json` of a run while it is used as a context.

    `handle` takes every event; `add` takes what the pipeline has found; `write` writes at once. A
    page that cannot be written is a warning: the run continues without it.
    """

    prepared: Prepared
    run_dir: RunDir
    emit: Callable[[Event], None]
    budget: Budget
    started: float = field(default_factory=time.monotonic)
    """When this attempt of the run began, by `now`."""
    send: Callable[[Path, int], None] | None = None
    """Takes a copy of the page every `SEND_SECONDS`, with the step that it shows, for those who
    watch the run at its destination."""
    secrets: Secrets = NO_SECRETS
    now: Callable[[], float] = time.monotonic
    found: Found = field(default_factory=Found)
    state: State = "training"
    problems: tuple[Problem, ...] = ()
    _failed: bool = False

    def __post_init__(self) -> None:
        self._history = History.of_log(read_event_lines(self.run_dir.events), now=self.now)
        self._pictures = PictureStore()
        self._sent_at = self.now()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="page", daemon=True)

    def handle(self, event: Event) -> None:
        """Take in one event of the run."""
        with self._lock:
            self._history.handle(event)
        self._changed.set()

    def add(self, **found: Any) -> None:
        """Note what the run has found; keys are those of `Found`."""
        with self._lock:
            self.found = replace(self.found, **found)
        self._changed.set()

    def add_samples(self, drawn: SampleSet) -> None:
        """Show what was drawn: epochs in their order, the finished LoRA last."""
        with self._lock:
            others = [each for each in self.found.sample_sets if each.epoch != drawn.epoch]
            sets = sorted([*others, drawn], key=lambda each: (each.final, each.epoch or 0))
            self.found = replace(self.found, sample_sets=tuple(sets))
        self._changed.set()

    def write(self, state: State | None = None) -> None:
        """Write the page now, as one of a run in `state`."""
        with self._writing:
            with self._lock:
                self.state = state or self.state
                facts = self._facts()
            try:
                page, live = render_page(redacted(facts, self.secrets.redact), self._pictures)
                write_atomically(self.run_dir.report, page)
                write_atomically(self.run_dir.live, live)
            except OSError as error:
                self._cannot_write(error)

    @property
    def curve(self) -> LossCurve:
        """The loss of every step so far."""
        with self._lock:
            return self._history.curve()

    def send_if_due(self) -> None:
        """Write the page and pass a copy to `send`, where the last is `SEND_SECONDS` old."""
        if self.now() - self._sent_at >= SEND_SECONDS:
            self.write()
            self._send_copy()

    def write_ending(self, error: TennerError) -> None:
        """Write the page of a run that ends with `error`, and pass a copy to `send`."""
        self.settle()
        with self._lock:
            self.problems = error.problems
        self.write(ending(error))
        self._send_copy()

    def _send_copy(self) -> None:
        """Pass a copy of the page to `send`: a file that is being uploaded must not change. The
        last copy may still be in the queue, so it is removed one page later."""
        self._sent_at = self.now()
        if self.send is None:
            return
        folder = self.run_dir.path / "page"
        older = sorted(folder.glob("*.html"))[:-1] if folder.is_dir() else []
        step = self._history.last.step if self._history.last else 0
        copy = folder / f"{step:09d}.html"
        try:
            write_atomically(copy, self.run_dir.report.read_bytes())
            for each in older:
                each.unlink(missing_ok=True)
        except OSError as error:
            self._cannot_write(error)
            return
        self.send(copy, step)

    def settle(self) -> None:
        """Stop the thread that writes pages: what is delivered must not change meanwhile."""
        self._closing.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _cannot_write(self, error: OSError) -> None:
        """Warn, once in a run, that the page cannot be written."""
        if not self._failed:
            self._failed = True
            why = error.strerror or str(error)
            self.emit(
                Warned(
                    text=msg(
                        "the page {report} cannot be written: {why}",
                        report=self.run_dir.report,
                        why=why,
                    )
                )
            )

    def _facts(self) -> ReportFacts:
        problems = tuple(
            Notice(text=each.text, fix=each.fix, level=each.level)
            for each in (*self.problems, *self.prepared.plan.notices, *self._history.notices)
        )
        facts = report_facts(self.prepared, self._history, self.found, state=self.state)
        return replace(facts, notices=problems, cost=self._cost())

    def _cost(self) -> CostFacts | None:
        """Dollars over all attempts: by the price of this machine, else the price book's for the
        card, which the page marks as an estimate."""
        price, source, spent = self.budget.price_per_hour, "", self.budget.spent_usd
        if price is None:
            book = self._book_price()
            if book is None:
                return None
            price, source = book.usd_per_hour, book.source
            spent = self.budget.spent_seconds / 3600 * price
        spent += (self.now() - self.started) / 3600 * price
        left = self._history.seconds_left if self.state == "training" else 0.0
        return CostFacts(
            spent_usd=spent,
            expected_usd=None if left is None else spent + left / 3600 * price,
            price_per_hour=price,
            max_cost_usd=self.budget.max_cost_usd,
            price_source=source,
        )

    def _book_price(self) -> Price | None:
        plan = self.prepared.plan
        return book_price(plan.gpu, num_gpus=plan.num_processes) if plan.gpu else None

    def _refresh(self) -> None:
        """The thread: write the page whenever something changed, at most every `LEAST_SECONDS`, and
        so seldom that pages take no more than `MAX_SHARE` of the time."""
        lower_thread_priority()
        pause = 0.0
        while not self._closing.wait(pause):
            self._changed.wait(LEAST_SECONDS)
            if self._closing.is_set() or not self._changed.is_set():
                continue
            self._changed.clear()
            started = time.thread_time()
            self.write()
            self.send_if_due()
            pause = max(LEAST_SECONDS, (time.thread_time() - started) / MAX_SHARE)

    def __enter__(self) -> Self:
        self._changed.set()  # the first page is due now
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.settle()
        if error is None:
            return
        if isinstance(error, TennerError):
            with self._lock:
                self.problems = error.problems
        self.write(ending(error))


def ending(error: BaseException) -> State:
    """The state of a run that ended with `error`."""
    match error:
        case Stopped() | KeyboardInterrupt():
            return "stopped"
        case BudgetReached():
            return "budget"
        case DeliveryError():
            return "not_delivered"
        case _:
            return "failed"

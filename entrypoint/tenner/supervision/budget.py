"""What a run may cost, and when it has to end so that its result can still be delivered.

Dollars and hours count over all attempts of the run, from the start of the program: what a machine
cost before that is not known here. The time for the delivery is reserved, by the measured upload
speed, or by an assumed one until something was sent.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tenner.core.events import Event, Warned
from tenner.core.messages import joined, msg
from tenner.supervision.guards import Verdict

ASSUMED_BYTES_PER_SECOND = 5e6
"""40 Mbit/s, a slow host's upload; used until the run has measured its own."""
SAVING_SECONDS = 10.0
WARN_AT = 0.8


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits, and what earlier attempts have used of them. `price_per_hour` is None where the
    machine's price is not known: then only the limit of hours can be enforced."""

    max_cost_usd: float | None
    max_hours: float | None
    price_per_hour: float | None
    spent_usd: float = 0.0
    spent_seconds: float = 0.0

    @property
    def seconds(self) -> float | None:
        """The seconds left for this attempt; None without a limit."""
        left: list[float] = []
        if self.max_hours is not None:
            left.append(self.max_hours * 3600 - self.spent_seconds)
        if self.max_cost_usd is not None and self.price_per_hour:
            left.append((self.max_cost_usd - self.spent_usd) / self.price_per_hour * 3600)
        return min(left, default=None)

    def cost_usd(self, seconds: float) -> float | None:
        """The dollars that `seconds` of this machine cost; None where its price is not known."""
        return None if self.price_per_hour is None else seconds / 3600 * self.price_per_hour

    def describe(self, seconds: float) -> str:
        """The part of the budget used after `seconds` of this attempt: `$1.24 of $10.00`."""
        parts: list[str] = []
        cost = self.cost_usd(seconds)
        if cost is not None and self.max_cost_usd is not None:
            parts.append(
                msg(
                    "${usd} of ${limit}",
                    usd=f"{self.spent_usd + cost:.2f}",
                    limit=f"{self.max_cost_usd:.2f}",
                )
            )
        if self.max_hours is not None:
            hours = (self.spent_seconds + seconds) / 3600
            parts.append(
                msg(
                    "{hours} of {max_hours} hours",
                    hours=f"{hours:.2f}",
                    max_hours=f"{self.max_hours:g}",
                )
            )
        return joined(*parts, separator=", ")


def delivery_seconds(num_bytes: int, bytes_per_second: float | None) -> float:
    """The seconds reserved to save and deliver: twice the time at the measured speed."""
    return SAVING_SECONDS + 2 * num_bytes / (bytes_per_second or ASSUMED_BYTES_PER_SECOND)


@dataclass(kw_only=True)
class BudgetGuard:
    """Warns at 80 %, and ends the engine with a save when only the delivery still fits.

    `reserve` returns the seconds that saving and delivering take now; `started` is when this
    attempt began (monotonic).
    """

    budget: Budget
    started: float
    reserve: Callable[[], float]
    now: Callable[[], float] = time.monotonic
    _has_warned: bool = False

    def handle(self, event: Event | None) -> Verdict | None:
        return None

    def check(self) -> Verdict | None:
        left = self.budget.seconds
        if left is None:
            return None
        used = self.now() - self.started
        if used >= left - self.reserve():
            text = msg(
                "the budget is used up ({used}): saving and delivering",
                used=self.budget.describe(used),
            )
            return Verdict(event=Warned(text=text), end="save", reason="budget")
        total = self.budget.spent_seconds + left
        if not self._has_warned and self.budget.spent_seconds + used >= WARN_AT * total:
            self._has_warned = True
            fix = msg("raise max_cost_usd or max_hours now and start again, or let it end in order")
            text = msg("80 % of the budget is used ({used})", used=self.budget.describe(used))
            return Verdict(event=Warned(text=text, fix=fix))
        return None

"""The machine of one run: its price at the beginning, its end at the end."""

from dataclasses import dataclass

from tenner.core.errors import SettingsError, errors_in
from tenner.core.events import Failed
from tenner.hardware.prices import Price, price_of
from tenner.hosts.ending import end_host, fetch_price
from tenner.hosts.host import Host
from tenner.runs.context import RunContext
from tenner.settings.model import Settings
from tenner.ui.notify import Notifier


@dataclass(kw_only=True)
class Rented:
    """The machine that a run rents. Without a known `host` only a command of the user's ends it."""

    host: Host | None
    settings: Settings
    context: RunContext
    news: Notifier
    known: Price | None = None

    def price(self) -> Price | None:
        """Dollars an hour, set by the user or reported by the host; None where neither is.

        A price of the price list is an estimate, and no reason to stop a run. Raises SettingsError
        where the host refuses the key that the end action needs.
        """
        price, problems = fetch_price(self.settings, self.host)
        if errors_in(problems):
            raise SettingsError(problems=errors_in(problems))
        self.known = price_of(set_by_user=self.settings.price_per_hour, host=price)
        if self.known is None:
            for problem in problems:
                self.context.screen.problem(problem)
        elif self.known.kind == "host":
            self.context.screen.say(f"  {self.host} costs ${self.known.usd_per_hour:.3f} an hour")
        return self.known

    def end(self) -> None:
        """End the machine as requested. A failure is logged, shown and sent: it costs money."""
        self.news.flush()
        problem = end_host(
            self.settings,
            self.host,
            self.context.environ,
            usd_per_hour=self.known.usd_per_hour if self.known else None,
            report=self.context.screen.say,
        )
        if problem:
            self.context.screen.problem(problem)
            self.context.log.append(Failed(kind="host", text=problem.text, fix=problem.fix))
            self.news.send("failed", str(problem))

"""Calls to one destination that end: each within its limit, whatever the other side does."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import TypeVar

from tenner.core.errors import DeliveryError
from tenner.core.messages import Message, joined, msg
from tenner.core.parallel import in_parallel
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.core.secrets import Secrets
from tenner.storage.destination import Destination
from tenner.storage.opening import open_store
from tenner.storage.progress import Repeats
from tenner.storage.store import Store

T = TypeVar("T")
OnTrouble = Callable[[str], None]


class LimitedCalls:
    """The store of one destination, opened at the first call. Safe to call from several threads.

    Every call ends within `limit_seconds` (and a grace of two) and raises DeliveryError with the
    cause, redacted. `on_trouble` gets the text of each error that is tried again.
    """

    def __init__(
        self,
        destination: Destination,
        secrets: Secrets,
        environ: Mapping[str, str],
        *,
        limit_seconds: float,
        on_trouble: OnTrouble | None = None,
    ) -> None:
        self.destination = destination
        self._secrets = secrets
        self._environ = environ
        self._limit_seconds = limit_seconds
        self._on_trouble = on_trouble
        self._store: Store | None = None
        self._lock = Lock()
        self._under_way: set[Deadline] = set()
        self._reported: set[str] = set()
        self._repeats = Repeats()

    def cancel(self) -> None:
        """End all calls that are under way now, as if their time were up."""
        with self._lock:
            for deadline in self._under_way:
                deadline.cancel()

    def call(self, action: Callable[[Store, Deadline], T], limit_seconds: float | None) -> T:
        """Do `action` within its limit. Raises DeliveryError for whatever prevented it."""
        deadline = Deadline(self._limit_seconds if limit_seconds is None else limit_seconds)
        with self._lock:
            self._under_way.add(deadline)
        try:
            (ended,) = in_parallel(
                [lambda: action(self._opened(), deadline.reporting_to(self.report))],
                num_workers=1,
                deadline=deadline,
                name="tenner-remote-run",
            )
        finally:
            with self._lock:
                self._under_way.discard(deadline)
        match ended:
            case PermanentError():
                raise self._error(ended.problem.text, ended.problem.fix) from ended
            case TransientError():
                fix = msg(
                    "it works again when the other side answers; look at its address and network"
                )
                text = joined(str(self.destination), str(ended), separator=": ")
                raise self._error(text, fix) from ended
            case OSError():
                fix = msg("look whether the disk of this machine is full or gone")
                text = joined(str(self.destination), str(ended), separator=": ")
                raise self._error(text, fix) from ended
            case BaseException():
                raise ended
            case _:
                return ended

    def _error(self, text: Message, fix: Message) -> DeliveryError:
        return DeliveryError(self._secrets.redact(text), fix=self._secrets.redact(fix))

    def _opened(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = open_store(self.destination, secrets=self._secrets, env=self._environ)
            return self._store

    def again(self, deadline: Deadline, action: Callable[[], T]) -> T:
        return retrying(deadline, action, on_retry=self.report)

    def report(self, trouble: str) -> None:
        """Report an error that is tried again: at once, and now and then while it repeats."""
        if since := self._repeats.is_due(trouble):
            destination = str(self.destination)
            named = trouble if trouble.startswith(destination) else f"{destination}: {trouble}"
            self._report(f"{named}; {since}")

    def report_once(self, text: str) -> None:
        """Report a text once."""
        if text not in self._reported:
            self._reported.add(text)
            self._report(text)

    def _report(self, text: str) -> None:
        if self._on_trouble:
            self._on_trouble(self._secrets.redact(text))

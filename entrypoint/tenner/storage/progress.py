"""How far a delivery is, as events: bytes that have arrived, and what is being tried again."""

import threading
import time
from collections.abc import Callable, Sequence

from tenner.core.checksums import HashedFile
from tenner.core.events import Event, Phase, Warned
from tenner.core.messages import joined, msg, plural
from tenner.core.secrets import Secrets

_EVERY_SECONDS = 1.0


class Repeats:
    """When an error that repeats is reported: at once, then every `every_seconds`."""

    def __init__(self, every_seconds: float = 30.0) -> None:
        self._every_seconds = every_seconds
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._count: dict[str, int] = {}
        self._lock = threading.Lock()

    def is_due(self, trouble: str) -> str:
        """The text to add: `trying again`, and how often it occurred; empty where it was
        reported lately. Safe to call from several threads."""
        now = time.monotonic()
        with self._lock:
            first = self._first.setdefault(trouble, now)
            self._count[trouble] = self._count.get(trouble, 0) + 1
            if trouble in self._last and now - self._last[trouble] < self._every_seconds:
                return ""
            self._last[trouble] = now
            if self._count[trouble] == 1:
                return msg("trying again")
            return plural(
                "trying again ({n} time in {seconds} s)",
                "trying again ({n} times in {seconds} s)",
                self._count[trouble],
                seconds=f"{now - first:.0f}",
            )


class Progress:
    """Counts the bytes of all destinations together; safe to call from many threads."""

    def __init__(
        self,
        files: Sequence[HashedFile],
        num_destinations: int,
        *,
        secrets: Secrets,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self._total = sum(file.size for file in files) * num_destinations
        self._done: dict[str, int] = {}
        self._secrets = secrets
        self._on_event = on_event
        self._lock = threading.Lock()
        self._reported_at = 0.0

    def already_there(self, destination: str, num_bytes: int) -> None:
        """Count bytes that were at the destination already."""
        self._add(destination, num_bytes)

    def left(self, destination: str, name: str) -> None:
        """Report a file that a person wrote there, which is not replaced."""
        text = msg(
            "{destination}: its {name} was edited by hand and stays as it is",
            destination=destination,
            name=name,
        )
        self._emit(
            Warned(text=text, fix=msg("the new one is in the run's folder, as {name}", name=name))
        )

    def counter(self, destination: str) -> Callable[[int], None]:
        """A callback for the number of bytes that arrived at `destination`."""
        return lambda num_bytes: self._add(destination, num_bytes)

    def retry_reporter(self, destination: str) -> Callable[[str], None]:
        """A callback that reports an error at once, and again now and then while it repeats."""
        repeats = Repeats()

        def report(trouble: str) -> None:
            if since := repeats.is_due(trouble):
                named = (
                    trouble
                    if trouble.startswith(destination)
                    else joined(destination, trouble, separator=": ")
                )
                self._emit(Warned(text=self._secrets.redact(joined(named, since))))

        return report

    def _add(self, destination: str, num_bytes: int) -> None:
        with self._lock:
            self._done[destination] = self._done.get(destination, 0) + num_bytes
            # A file sent twice is counted twice; the bar must not pass its end for it.
            done, now = min(sum(self._done.values()), self._total), time.monotonic()
            due = now - self._reported_at >= _EVERY_SECONDS or done == self._total
            if due:
                self._reported_at = now
        if due:
            self._emit(Phase(name="delivering", detail=destination, done=done, total=self._total))

    def _emit(self, event: Event) -> None:
        if self._on_event:
            with self._lock:
                self._on_event(event)

"""Which machine may train a run that several may start: a lease at its destination.

`.tenner/<job>/lease/` holds one small file for each generation, named by its number. A generation
is taken by creating its file, which only one of several machines can do; from then on only its
holder writes it, at each renewal. A machine that waits for the run watches the newest generation:
if it does not change for the length of the lease, by the watcher's own clock, the watcher creates
the next one. A holder counts from before its request, and for a part of the length only, so it has
stopped before another can begin. No two clocks are compared; they only need to run at the same
speed, within the share that is left over.
"""

import json
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

from tenner.core.errors import DeliveryError, MachineError
from tenner.core.messages import msg
from tenner.core.temporary_files import temporary_folder
from tenner.runs.remote_run import RemoteRun

LEASE_SECONDS = 60.0
_OWN_SHARE = 0.7
"""Part of the lease that its holder counts on; the rest is for clocks that run unevenly."""
_RENEWALS = 5
"""Renewals of a holder in the time it counts on."""
_REQUEST_SECONDS = 60.0
"""How long a destination is given to answer where no lease depends on it."""
_FOLDER = "lease"


class LeaseLost(MachineError):
    """Another machine has taken this run over, or may have: nothing may be sent any more."""


def now() -> float:
    """Seconds on a clock that includes the time that the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(kw_only=True)
class Lease:
    """The lease of one run, taken and renewed. As a context manager it is given back at the end.

    `on_lost` is called once, from a thread, when the lease is lost before it was given back; it is
    the caller's duty to stop everything then.
    """

    remote: RemoteRun
    on_lost: Callable[[str], None]
    seconds: float = LEASE_SECONDS
    holder: str = field(default_factory=lambda: f"{socket.gethostname()}-{token_hex(4)}")
    generation: int = 0
    _valid_until: float = 0.0
    _renewals: int = 0
    _closing: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def take(self, say: Callable[[str], None], *, patience_seconds: float | None = None) -> None:
        """Wait for this run's lease and take it.

        Raises DeliveryError where the destination cannot be reached or cannot decide which machine
        was first, LeaseLost where another machine held it for `patience_seconds`.
        """
        until = math.inf if patience_seconds is None else now() + patience_seconds
        while not self._try(say, until):
            if now() > until:
                raise LeaseLost(
                    msg(
                        "another machine trains this run ({destination})",
                        destination=self.remote.destination,
                    ),
                    fix=msg("wait for it, or stop it"),
                )
        self._prove()
        for work in (self._renew_repeatedly, self._watch):
            thread = threading.Thread(target=work, name="tenner-lease", daemon=True)
            self._threads.append(thread)
            thread.start()

    def check(self) -> None:
        """Read whether this machine still holds it. Raises LeaseLost where it does not."""
        if self._newest() != self.generation or now() > self._valid_until:
            raise LeaseLost(
                msg("generation {generation} of this run is over", generation=self.generation)
            )

    def _try(self, say: Callable[[str], None], until: float) -> bool:
        """Take the lease if it is free, else wait until its holder changes. Returns whether it was
        taken."""
        newest = self._newest()
        if newest and not self._is_over(newest, say, until):
            return False
        requested_at = now()
        content = self._content()
        name = _name(newest + 1)
        created = self.remote.create_file(name, content, limit_seconds=_REQUEST_SECONDS)
        # Where an answer was lost, a second try finds the file that the first one made.
        if not created and self._read(newest + 1) != content:
            return False
        self.generation, self._valid_until = newest + 1, requested_at + _OWN_SHARE * self.seconds
        return now() < self._valid_until

    def _is_over(self, generation: int, say: Callable[[str], None], until: float) -> bool:
        """Whether the lease was given back, or its holder did not renew it for its whole length.

        False as soon as there is a newer one, or `until` has passed.
        """
        seen = self._read(generation)
        since = now()
        reported = False
        while True:
            if seen is None or _parsed(seen).get("given_back"):
                return True
            if now() - since > self.seconds:
                return True
            if not reported:
                say(f"{_parsed(seen).get('holder', 'another machine')} has this run; waiting")
                reported = True
            time.sleep(self.seconds / 20)
            if self._newest() != generation or now() > until:
                return False
            before, seen = seen, self._read(generation)
            if seen != before:
                since = now()

    def _prove(self) -> None:
        """Raises DeliveryError where the destination lets a name be created twice."""
        again = self.remote.create_file(
            _name(self.generation), b"{}", limit_seconds=_REQUEST_SECONDS
        )
        if again:
            raise DeliveryError(
                msg(
                    "{destination} ignores conditions (If-None-Match): it does not show"
                    " which of two machines was first",
                    destination=self.remote.destination,
                ),
                fix=msg("name a destination that does: AWS S3, R2, MinIO, or a shared folder"),
            )

    def _renew_repeatedly(self) -> None:
        """Renew the lease now and then."""
        pause = _OWN_SHARE * self.seconds / _RENEWALS
        while not self._closing.wait(pause):
            try:
                self._renew(limit_seconds=max(1.0, self._valid_until - now()))
            except DeliveryError:
                continue  # the watch ends it in time
            except LeaseLost as error:
                self._lost(str(error))
                return

    def _renew(self, *, limit_seconds: float) -> None:
        requested_at = now()
        self._renewals += 1
        self._put(self._content(), limit_seconds=limit_seconds)
        if self._newest(limit_seconds=limit_seconds) != self.generation:
            raise LeaseLost(
                msg("another machine took generation {generation}", generation=self.generation + 1)
            )
        self._valid_until = requested_at + _OWN_SHARE * self.seconds

    def _watch(self) -> None:
        """End the lease when its time is over, whatever the network does."""
        while not self._closing.wait(min(0.2, self.seconds / 50)):
            if now() > self._valid_until:
                self._lost(msg("its destination was out of reach for too long"))
                return

    def _lost(self, why: str) -> None:
        if not self._closing.is_set():
            self._closing.set()
            self.on_lost(why)

    def _content(self, **more: bool) -> bytes:
        return json.dumps({"holder": self.holder, "beat": self._renewals, **more}).encode()

    def _put(self, content: bytes, *, limit_seconds: float) -> None:
        with temporary_folder("lease") as folder:
            path = Path(folder) / "beat"
            path.write_bytes(content)
            self.remote.put_file(_name(self.generation), path, limit_seconds=limit_seconds)

    def _read(self, generation: int) -> bytes | None:
        return self.remote.get_file(_name(generation), limit_seconds=_REQUEST_SECONDS)

    def _newest(self, *, limit_seconds: float | None = None) -> int:
        names = self.remote.names(_FOLDER, limit_seconds=limit_seconds or _REQUEST_SECONDS)
        return max((int(stem) for stem in map(_stem, names) if stem.isdigit()), default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease back, where this machine still holds it."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        if not self._threads or now() > self._valid_until:
            return
        try:
            self._put(self._content(given_back=True), limit_seconds=_REQUEST_SECONDS)
        except DeliveryError:
            return  # it is over by itself soon


def _name(generation: int) -> str:
    return f"{_FOLDER}/{generation:08d}.json"


def _stem(name: str) -> str:
    return name.removesuffix(".json")


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found: Any = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]

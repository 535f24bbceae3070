"""A caller's function as the screen of a run: it is called with every event."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from signal import SIGTERM
from typing import Self

from tenner.core.errors import Problem
from tenner.core.events import Event, Failed, Warned
from tenner.supervision.supervise import StopRequest
from tenner.ui.screen import AddressOf, Screen

OnEvent = Callable[[Event], None]
_LOG = logging.getLogger("tenner")


@dataclass(kw_only=True)
class Listener:
    """Passes events on to `on_event`, one at a time, and to `screen` where there is one.

    Problems are events too: `Warned`, or `Failed` for errors. Sentences go to the logger `tenner`.
    What `on_event` raises is stored in `failure` and ends the run in order; `on_event` is not
    called again. While a run is only prepared, a request to stop is answered at the next event.
    """

    on_event: OnEvent | None
    screen: Screen | None
    stop: StopRequest = field(default_factory=StopRequest)
    failure: Exception | None = None
    _thread: int = field(default_factory=threading.get_ident)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def say(self, text: str = "") -> None:
        _LOG.info("%s", text)
        if self.screen:
            self.screen.say(text)

    def problem(self, problem: Problem) -> None:
        if self.screen:
            self.screen.problem(problem)
        event: Event = Failed(kind="other", text=problem.text, fix=problem.fix)
        if problem.level != "error":
            event = Warned(text=problem.text, fix=problem.fix, level=problem.level)
        self._call(event)

    def show(self, event: Event) -> None:
        if self.screen:
            self.screen.show(event)
        self._call(event)
        ends_here = self.stop.signal is not None and self.stop.ends_at_once
        if ends_here and threading.get_ident() == self._thread:
            raise KeyboardInterrupt

    def show_address(self, what: AddressOf, address: str) -> None:
        if self.screen:
            self.screen.show_address(what, address)

    def _call(self, event: Event) -> None:
        with self._lock:
            if self.on_event is None or self.failure is not None:
                return
            try:
                self.on_event(event)
            except Exception as error:  # noqa: BLE001  the caller's own, raised when the run ended
                self.failure = error
                self.stop.request(SIGTERM)

    def __enter__(self) -> Self:
        if self.screen:
            self.screen.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.screen:
            self.screen.__exit__(*exception)

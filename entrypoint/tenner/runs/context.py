"""The context of a run's stages: screen, event log, listeners, and the request to stop."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tenner.core.event_log import EventLog
from tenner.core.events import Event, Phase
from tenner.core.secrets import Secrets, child_environ
from tenner.runs.session import Session
from tenner.supervision.supervise import StopRequest
from tenner.ui.screen import Screen


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Passed to every stage. Events can be emitted from several threads."""

    screen: Screen
    log: EventLog
    stop: StopRequest
    environ: Mapping[str, str]
    secrets: Secrets
    session: Session
    grace_seconds: float = 8.0
    started: float = field(default_factory=time.monotonic)
    listeners: list[Callable[[Event], None]] = field(default_factory=list[Callable[[Event], None]])
    _emitting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def emit(self, event: Event) -> None:
        """Show an event, log it, and pass it on to the listeners."""
        with self._emitting:
            self.screen.show(event)
            self.log.append(event)
        for listener in self.listeners:
            listener(event)

    def begin(self, name: str, detail: str = "") -> None:
        self.emit(Phase(name=name, detail=detail))

    @property
    def child_environ(self) -> dict[str, str]:
        """The environment of child processes, without secrets."""
        return child_environ(self.environ)

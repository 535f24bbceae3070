"""`tenner.train`: one run from settings to verified delivery, called from another program."""

import contextlib
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tenner.core.errors import TennerError

if TYPE_CHECKING:
    from tenner.library.listening import Listener, OnEvent
    from tenner.library.requests import Given
    from tenner.pipeline.run import AlreadyDelivered, Outcome
    from tenner.supervision.supervise import StopRequest
    from tenner.ui.screen import Screen

_LOOKS_SECONDS = 0.1
"""Seconds between two looks at whether the run has ended, while waiting for the caller's `stop`."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run whose files are delivered and verified.

    `state` is `delivered before` where an earlier start had done all of it: then nothing was
    trained, and what follows `delivered_to` is empty. `num_steps` counts optimizer steps over all
    attempts, `seconds` this one's; `sha256` is that of `weights`, `samples` the grid of samples.
    """

    state: Literal["delivered", "delivered before"]
    run_dir: Path
    report: Path
    delivered_to: tuple[str, ...]
    weights: Path | None = None
    num_bytes: int = 0
    sha256: str = ""
    num_steps: int = 0
    seconds: float = 0.0
    samples: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """As `tenner train --json` prints it."""
        if self.state == "delivered before":
            return {
                "state": self.state,
                "run_dir": str(self.run_dir),
                "delivered_to": list(self.delivered_to),
            }
        return {
            "state": self.state,
            "run_dir": str(self.run_dir),
            "weights": str(self.weights),
            "sha256": self.sha256 or None,
            "num_steps": self.num_steps,
            "seconds": round(self.seconds, 1),
            "samples": str(self.samples) if self.samples else None,
            "report": str(self.report),
            "delivered_to": list(self.delivered_to),
        }


def train(
    settings: "Given",
    *,
    on_event: "OnEvent | None" = None,
    environ: Mapping[str, str] | None = None,
    preset: str | None = None,
    restart: bool = False,
    stop: threading.Event | None = None,
    handle_signals: bool = False,
    screen: "Screen | None" = None,
) -> Result:
    """Check everything, train, draw samples, deliver and verify. Works in any thread.

    `settings` are values by name, the path of a settings file, or a Request. `on_event` is called
    with each event, one at a time and from several threads; what it raises ends the run in order
    and is raised here. Setting `stop` ends the run as SIGTERM ends `tenner train`: the state is
    saved, and the same call resumes it. With `handle_signals`, in the main thread only, SIGTERM and
    SIGINT do so too; their handlers are put back afterwards. `screen` shows the run to people.

    Raises TennerError: SettingsError, DatasetError, MachineError, TrainingError, DeliveryError,
    BudgetReached, Stopped or InternalError, each with all its problems; ValueError where signals
    cannot be handled.
    """
    from tenner.library.listening import Listener
    from tenner.library.requests import environ_of, request_of
    from tenner.pipeline.run import run
    from tenner.supervision.supervise import StopRequest, stop_on_signals

    if handle_signals and threading.current_thread() is not threading.main_thread():
        raise ValueError("handle_signals = True works in the main thread only")
    given = environ_of(environ)
    request = request_of(settings, given, preset=preset)
    stopping = stop_on_signals() if handle_signals else contextlib.nullcontext(StopRequest())
    with stopping as stop_request:
        listener = Listener(on_event=on_event, screen=screen, stop=stop_request)
        with _stopped_by(stop, stop_request), _failure_of(listener):
            outcome = run(request, given, listener, restart=restart, stop=stop_request)
    return _result(outcome)


@contextlib.contextmanager
def _stopped_by(stop: threading.Event | None, stop_request: "StopRequest") -> Generator[None]:
    """Pass the caller's request to stop on to the run while the context lasts."""
    if stop is None:
        yield
        return
    from signal import SIGTERM

    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if stop.wait(_LOOKS_SECONDS):
                stop_request.request(SIGTERM)
                return

    watching = threading.Thread(target=watch, name="tenner-stop", daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


@contextlib.contextmanager
def _failure_of(listener: "Listener") -> Generator[None]:
    """Raise the error of the caller's `on_event` instead of the one that it ended the run with."""
    try:
        yield
    except TennerError as error:
        if listener.failure is not None:
            raise listener.failure from error
        raise
    if listener.failure is not None:
        listener.failure.add_note("the run was delivered all the same")
        raise listener.failure


def _result(outcome: "Outcome | AlreadyDelivered") -> Result:
    """The outcome of a run as the caller gets it."""
    from tenner.pipeline.run import AlreadyDelivered

    run_dir = outcome.run_dir
    if isinstance(outcome, AlreadyDelivered):
        return Result(
            state="delivered before",
            run_dir=run_dir.path,
            report=run_dir.report,
            delivered_to=outcome.delivered_to,
        )
    weights = outcome.trained.weights
    digests = {each.name: each.sha256 for each in outcome.delivered.manifest.files}
    return Result(
        state="delivered",
        run_dir=run_dir.path,
        report=run_dir.report,
        delivered_to=tuple(each.destination for each in outcome.delivered.at),
        weights=weights.path,
        num_bytes=weights.num_bytes,
        sha256=digests.get(weights.path.name, ""),
        num_steps=outcome.trained.step,
        seconds=outcome.seconds,
        samples=outcome.drawn.grid if outcome.drawn else None,
    )

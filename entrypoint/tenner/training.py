"""Train: hand the plan to its engine, follow it, and believe only the files it leaves.

A run may have several lives. Each starts from the newest state that the engine accepts; a state
that turns out to be broken is put aside and the one before is taken.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenner.engines import Command, ReadLine
from tenner.errors import MachineError, Problem, Stopped, TrainingError
from tenner.events import Checkpoint, Done, Event, Failed, Step, Warned
from tenner.guards import StallGuard
from tenner.run_dir import RunDir, write_json
from tenner.supervise import Ending, StopRequest, follow
from tenner.weights import Weights, inspect_weights

STATE_MARK = "state.json"
"""The file that an engine writes last into a state: one without it was cut and is no state."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training left: weights that were read and are finite. `finished` is False where a
    stop file ended it early."""

    weights: Weights
    step: int
    finished: bool
    seconds: float
    resumed_from: int = 0


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How to start an engine from a state (None: from the beginning), and read its lines."""

    name: str
    command: Callable[[Path | None], Command]
    read: ReadLine
    broken_state_exit: int


@dataclass(kw_only=True)
class Follower:
    """Keeps what matters of an engine's events while passing all of them on."""

    on_event: Callable[[Event], None]
    step: int = 0
    first_step: int | None = None
    done: Done | None = None
    checkpoint: Checkpoint | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Step(step=step):
                self.first_step = step if self.first_step is None else self.first_step
                self.step = step
            case Done():
                self.done = event
            case Checkpoint():
                self.checkpoint = event
            case _:
                pass
        self.on_event(event)


def train(
    engine: Engine,
    place: RunDir,
    *,
    environ: Mapping[str, str],
    stop: StopRequest,
    grace_seconds: float,
    on_event: Callable[[Event], None],
) -> Trained:
    """Train to the end of the plan, or as far as a stop file lets it.

    Raises TrainingError where it failed, Stopped where a signal ended it, MachineError where the
    engine could not be started. Whatever was saved stays in the run's directory.
    """
    follower = Follower(on_event=on_event)
    seconds = 0.0
    candidates = [*states(place), None]
    for state in candidates:
        ending = _one_life(engine, state, place, environ, stop, grace_seconds, follower)
        seconds += ending.seconds
        if state is None or ending.returncode != engine.broken_state_exit:
            break
        text = f"the state {state.name} is broken; going on from the one before"
        on_event(Warned(text=text))
        state.rename(state.with_name(f"broken-{state.name}"))
    else:
        raise AssertionError("the last candidate is the beginning itself")
    if ending.signal is not None:
        raise _stopped(follower)
    if ending.returncode != 0:
        raise _failed(engine, ending, place)
    asked_to_end = place.stop_file.is_file() and follower.checkpoint is not None
    if follower.done is None and not asked_to_end:
        raise TrainingError(
            f"{engine.name} ended without an error and without its final weights",
            fix=f"its last words are in {place.engine_log}",
        )
    return _believe(follower, seconds)


def note_trained(trained: Trained, place: RunDir) -> None:
    """Remember that the training reached its end. Raises OSError."""
    note = {"weights": trained.weights.path.name, "bytes": trained.weights.num_bytes}
    write_json(place.trained, note | {"step": trained.step, "seconds": trained.seconds})


def trained_before(place: RunDir) -> Trained | None:
    """The training that an earlier start of this run finished, where its file is still good."""
    try:
        note: dict[str, Any] = json.loads(place.trained.read_text(encoding="utf-8"))
        found = inspect_weights(place.checkpoints / str(note["weights"]))
        step, seconds = int(note["step"]), float(note["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if isinstance(found, Problem) or found.num_bytes != note.get("bytes"):
        return None
    return Trained(weights=found, step=step, finished=True, seconds=seconds, resumed_from=step)


def states(place: RunDir) -> list[Path]:
    """Whole states in the run's directory, newest first."""
    found = [each for each in place.state.iterdir() if (each / STATE_MARK).is_file()]
    whole = [each for each in found if not each.name.startswith("broken-")]
    return sorted(whole, key=lambda each: each.name, reverse=True)


def _one_life(
    engine: Engine,
    state: Path | None,
    place: RunDir,
    environ: Mapping[str, str],
    stop: StopRequest,
    grace_seconds: float,
    follower: Follower,
) -> Ending:
    try:
        return follow(
            engine.command(state),
            read=engine.read,
            on_event=follower,
            log=place.engine_log,
            environ=environ,
            stop=stop,
            grace_seconds=grace_seconds,
            guard=StallGuard(),
        )
    except OSError as error:
        raise MachineError(
            f"{engine.name} cannot be started: {error.strerror or error}",
            fix="check TENNER_TRAINER_PYTHON, or leave it unset",
        ) from error


def _believe(follower: Follower, seconds: float) -> Trained:
    """The weights that the engine says it wrote, where they are really there and finite."""
    done = follower.done
    path = (
        Path(done.path) if done else Path(follower.checkpoint.path if follower.checkpoint else "")
    )
    found = inspect_weights(path)
    if isinstance(found, Problem):
        raise TrainingError(problems=[replace(found, text=f"trained, but {found.text}")])
    first = follower.first_step or 1
    return Trained(
        weights=found,
        step=done.step if done else follower.step,
        finished=done is not None,
        seconds=seconds,
        resumed_from=first - 1,
    )


def _stopped(follower: Follower) -> Stopped:
    return Stopped(
        f"stopped by a signal after step {follower.step}",
        fix="start the same command again: it goes on from the last state",
    )


def _failed(engine: Engine, ending: Ending, place: RunDir) -> TrainingError:
    said = ending.failed or Failed(kind="other", text=_last_words(engine, ending))
    fix = said.fix or f"the whole log is in {place.engine_log}"
    return TrainingError(f"training failed: {said.text}", fix=fix)


def _last_words(engine: Engine, ending: Ending) -> str:
    code = ending.returncode
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    words = "\n    ".join(ending.last_lines[-5:])
    return f"{engine.name} {how}\n    {words}" if words else f"{engine.name} {how}"

"""Train: start the plan's engine, follow it, and use only files that were verified.

A run may have several attempts, and an attempt several engines: each starts from the newest state
that the engine accepts; a state that turns out to be broken is renamed and the one before is
used; where the card's memory was too small, an engine that takes less of it continues.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tenner.core.command import Command, ReadLine
from tenner.core.disk_errors import TAKES_NO_MORE, disk_failure, free_words, is_disk_trouble
from tenner.core.errors import (
    BudgetReached,
    DatasetError,
    MachineError,
    Problem,
    SettingsError,
    Stopped,
    TennerError,
    TrainingError,
)
from tenner.core.events import (
    Checkpoint,
    Done,
    Event,
    Failed,
    FailureKind,
    Phase,
    Rounded,
    Step,
    Warned,
)
from tenner.core.messages import as_message, msg
from tenner.core.run_dir import RunDir
from tenner.core.weights import Weights, inspect_weights
from tenner.supervision.exit_diagnosis import Kills, count_kills, explain
from tenner.supervision.guards import Guard, NanGuard, SlowGuard, StallGuard
from tenner.supervision.restarts import KILLED_FROM_OUTSIDE, Restarts
from tenner.supervision.states import newest_step, rename_out_of_use, states
from tenner.supervision.supervise import Control, Ending, StopRequest, follow

_ORDERLY = ("done", "budget", "stop_file")
"""Reasons of guards after which complete final weights are the result, whatever the exit code."""
_CAPTIONS = "caching captions"
"""The phase in which both engines encode captions."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of a training: weights that were read back and are finite. `finished` is False
    where a stop file ended it early."""

    weights: Weights
    step: int
    finished: bool
    seconds: float
    resumed_from: int = 0
    lost_in_saving: Mapping[str, float] = field(default_factory=dict[str, float])
    """The relative rounding error of each network part's update in the file's precision, if the
    trainer reported it."""


@dataclass(frozen=True, kw_only=True)
class Lighter:
    """An engine for the same training with less memory. `description` is what changes for it."""

    engine: "Engine"
    description: str


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How an engine is started from a state (None: from the beginning), and its lines are read.

    `lighter` returns the next engine to try where the card's memory ran out, `lighter_on_host`
    where the machine's did; `out_of_memory_fix` is what the user can do where none is left.
    `lighter_captions` and `captions_fix` are used instead of them while captions are encoded, if
    the engine sets them. `guards` are those that this engine needs besides the usual ones.
    """

    name: str
    command: Callable[[Path | None], Command]
    read: ReadLine
    broken_state_exit: int
    lighter: Callable[[], Lighter | None] = lambda: None
    lighter_on_host: Callable[[], Lighter | None] = lambda: None
    out_of_memory_fix: str = ""
    lighter_captions: Callable[[], Lighter | None] | None = None
    captions_fix: str = ""
    guards: tuple[Guard, ...] = ()


@dataclass(kw_only=True)
class Follower:
    """Passes an engine's events on, and stores the last step, checkpoint and end."""

    on_event: Callable[[Event], None]
    step: int = 0
    phase: str = ""
    """What was begun before the steps; empty while steps are done."""
    first_step: int | None = None
    done: Done | None = None
    checkpoint: Checkpoint | None = None
    lost_in_saving: Mapping[str, float] = field(default_factory=dict[str, float])

    def __call__(self, event: Event) -> None:
        match event:
            case Step(step=step):
                self.first_step = step if self.first_step is None else self.first_step
                self.step, self.phase = step, ""
            case Phase(name=name):
                self.phase = name
            case Done():
                self.done = event
            case Checkpoint():
                self.checkpoint = event
            case Rounded(lost=lost):
                self.lost_in_saving = lost
            case _:
                pass
        self.on_event(event)


def train(
    engine: Engine,
    run_dir: RunDir,
    *,
    control: Control,
    on_event: Callable[[Event], None],
    guards: Sequence[Guard] = (),
) -> Trained:
    """Train to the end of the plan, or until a stop file ends it.

    Raises Stopped where a signal ended it, BudgetReached where a guard did, and where it failed
    MachineError for a fault of the host, else TrainingError.
    Whatever was saved stays in the run's directory.
    """
    follower, restarts = Follower(on_event=on_event), Restarts()
    seconds = 0.0
    while True:
        kills = count_kills()
        ending = _one_attempt(engine, run_dir, control, follower, guards)
        seconds += ending.seconds
        if _ended_orderly(ending, follower):
            return _verified(follower, seconds)
        failed = ending.failed or (None if ending.ended_by else _explained(ending, kills))
        again = None
        if failed and ending.signal is None:
            again, failed = _next_engine(engine, failed, restarts, follower, run_dir, control.stop)
        if again is None:
            error = _error_of(engine, ending, failed, follower, run_dir)
            if error is not None:
                raise error
            return _verified(follower, seconds)
        engine = again


def _reason(ending: Ending) -> str:
    """Why a guard ended the engine; empty where none did."""
    return ending.ended_by.reason if ending.ended_by else ""


def _ended_orderly(ending: Ending, follower: Follower) -> bool:
    """Whether the final weights were reported before anything but their guard ended the engine."""
    ordered = _reason(ending) in _ORDERLY
    return follower.done is not None and ordered and ending.signal is None


def _error_of(
    engine: Engine, ending: Ending, failed: Failed | None, follower: Follower, run_dir: RunDir
) -> TennerError | None:
    """The error of a training that is not continued; None where it was successful, or a stop file
    ended it early with weights."""
    reason = _reason(ending)
    if ending.signal is not None:
        return _stopped(follower, run_dir)
    if reason == "budget" and follower.done is None:
        return _budget_reached(follower)
    by_stop_file = run_dir.stop_file.is_file() and follower.checkpoint is not None
    reported = follower.done is None and failed is not None and not by_stop_file
    ended_badly = ending.returncode and not (reason == "stop_file" and by_stop_file)
    if reason == "nan" or ended_badly or reported:
        return _failed(engine, ending, failed, run_dir)
    if follower.done is None and not by_stop_file:
        return TrainingError(
            msg("{name} ended without an error and without its final weights", name=engine.name),
            fix=msg("its last output is in {engine_log}", engine_log=run_dir.engine_log),
        )
    return None


def _explained(ending: Ending, before: Kills) -> Failed | None:
    return explain(ending.returncode, before, last_lines=ending.last_lines)


def _next_engine(
    engine: Engine,
    failed: Failed,
    restarts: Restarts,
    follower: Follower,
    run_dir: RunDir,
    stop: StopRequest,
) -> tuple[Engine | None, Failed]:
    """The engine to continue with after a failure (None: it ends the training), and the failure as
    it is reported then."""
    if failed.kind == "oom":
        return _less_memory(engine, failed, follower)
    if failed.kind not in KILLED_FROM_OUTSIDE:
        return None, failed
    newest = newest_step(run_dir)
    if not restarts.allows(newest):
        text = msg(
            "{text}; it was restarted {in_all} times in this attempt",
            text=failed.text,
            in_all=restarts.in_all,
        )
        fix = msg("rent a machine with more memory and start the same command there")
        return None, replace(failed, text=text, fix=fix)
    lighter = engine.lighter_on_host() if restarts.needs_less_memory(failed.kind) else None
    text = msg("{text}; it is restarted from step {newest}", text=failed.text, newest=newest)
    if lighter:
        text = msg("{text}: {change}", text=text, change=lighter.description)
    follower.on_event(Warned(text=text))
    stop.wait(restarts.pause_seconds)
    return (lighter.engine if lighter else engine), failed


def _less_memory(
    engine: Engine, failed: Failed, follower: Follower
) -> tuple[Engine | None, Failed]:
    """As `_next_engine`, where the card's memory ran out."""
    if follower.phase == _CAPTIONS and engine.lighter_captions is not None:
        lighter, fix = engine.lighter_captions(), engine.captions_fix
        when = msg("out of memory while captions were encoded")
    else:
        lighter, fix = engine.lighter(), engine.out_of_memory_fix
        when = msg("out of memory after step {step}", step=follower.step)
    if lighter is None:
        return None, replace(failed, fix=fix or failed.fix)
    follower.on_event(Warned(text=msg("{when}: {change}", when=when, change=lighter.description)))
    return lighter.engine, failed


def _one_attempt(
    engine: Engine,
    run_dir: RunDir,
    control: Control,
    follower: Follower,
    guards: Sequence[Guard],
) -> Ending:
    """Run an engine from the newest state that it accepts; broken ones are renamed."""
    for state in [*states(run_dir), None]:
        ending = _start(engine, state, run_dir, control, follower, guards)
        if state is None or not _is_broken(ending, engine):
            return ending
        text = msg("the state {name} is broken; resuming from the one before", name=state.name)
        follower.on_event(Warned(text=text))
        rename_out_of_use([state], "broken")
    raise AssertionError("the last candidate is a start without a state")


def _is_broken(ending: Ending, engine: Engine) -> bool:
    """Whether the engine ended because its state is broken. Its event is the evidence where a
    launcher of several processes hides their exit codes."""
    reported = ending.failed is not None and ending.failed.kind == "broken_state"
    return reported or ending.returncode == engine.broken_state_exit


def _start(
    engine: Engine,
    state: Path | None,
    run_dir: RunDir,
    control: Control,
    follower: Follower,
    guards: Sequence[Guard],
) -> Ending:
    try:
        return follow(
            engine.command(state),
            read=engine.read,
            on_event=follower,
            log=run_dir.engine_log,
            control=control,
            guards=(StallGuard(), NanGuard(), SlowGuard(), *engine.guards, *guards),
        )
    except OSError as error:
        if is_disk_trouble(error):
            raise MachineError(problems=[disk_failure(error, run_dir.path)]) from error
        raise MachineError(
            msg(
                "{name} cannot be started: {strerror}",
                name=engine.name,
                strerror=error.strerror or error,
            ),
            fix=msg("check TENNER_TRAINER_PYTHON, or leave it unset"),
        ) from error


def _verified(follower: Follower, seconds: float) -> Trained:
    """The weights that the engine reported, read back. Raises TrainingError where they are missing
    or not finite."""
    done = follower.done
    path = (
        Path(done.path) if done else Path(follower.checkpoint.path if follower.checkpoint else "")
    )
    found = inspect_weights(path)
    if isinstance(found, Problem):
        raise TrainingError(
            problems=[replace(found, text=msg("trained, but {text}", text=found.text))]
        )
    first = follower.first_step or 1
    return Trained(
        weights=found,
        step=done.step if done else follower.step,
        finished=done is not None,
        seconds=seconds,
        resumed_from=first - 1,
        lost_in_saving=follower.lost_in_saving,
    )


def _stopped(follower: Follower, run_dir: RunDir) -> Stopped:
    """The error of a run that a signal stopped; its fix names the newest state."""
    done, saved = follower.step, states(run_dir)
    if not saved:
        text = msg("stopped by a signal after step {done}, before any state was saved", done=done)
        return Stopped(text, fix=msg("start the same command again: it begins from the first step"))
    step = int(saved[0].name.rpartition("-")[2])
    fix = msg("start the same command again: it resumes from the state of step {step}", step=step)
    return Stopped(msg("stopped by a signal after step {done}", done=done), fix=fix)


_LONGEST = 1000
"""Characters of a failure that are shown: torch lists a thousand missing tensors in one line."""
_ERROR_OF: dict[FailureKind, type[TennerError]] = {
    "host": MachineError,
    "host_memory": MachineError,
    "killed": MachineError,
    "disk": MachineError,
    "base_model": SettingsError,
    "no_data": DatasetError,
}


def _failed(
    engine: Engine, ending: Ending, reported: Failed | None, run_dir: RunDir
) -> TennerError:
    failed = reported or Failed(kind="other", text=_last_output(engine, ending))
    fix = as_message(failed.fix) or msg(
        "the whole log is in {engine_log}", engine_log=run_dir.engine_log
    )
    if failed.kind == "disk" and TAKES_NO_MORE not in failed.text:
        where = run_dir.path.absolute()
        text = msg(
            "the disk takes no more: {where}: {text}{free_words}",
            where=where,
            text=failed.text,
            free_words=free_words(run_dir.path),
        )
        failed = replace(failed, text=text)
    text = (
        failed.text if len(failed.text) < _LONGEST else msg("{text} …", text=failed.text[:_LONGEST])
    )
    return _ERROR_OF.get(failed.kind, TrainingError)(
        msg("training failed: {text}", text=text), fix=fix
    )


def _budget_reached(follower: Follower) -> BudgetReached:
    return BudgetReached(
        msg("the budget ended the training after step {step}", step=follower.step),
        fix=msg(
            "raise max_cost_usd or max_hours and start the same command: it resumes from there"
        ),
    )


def _last_output(engine: Engine, ending: Ending) -> str:
    code = ending.returncode
    how = (
        msg("was ended by signal {code}", code=-code)
        if code < 0
        else msg("ended with code {code}", code=code)
    )
    lines = "\n    ".join(ending.last_lines[-5:])
    return (
        msg("{name} {how}\n    {lines}", name=engine.name, how=how, lines=lines)
        if lines
        else msg("{name} {how}", name=engine.name, how=how)
    )

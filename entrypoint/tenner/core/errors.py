"""How a run can fail: the problem, its fix, and who has to act (the exit code).

The exceptions are a tree under `TennerError`. Each carries every problem found, not the
first one, so that a user can fix them all before the next start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal

from tenner.core.messages import NO_TEXT, Message, joined, msg

Level = Literal["error", "warning", "note"]


class ExitCode(IntEnum):
    """What the process exits with; scripts and hosts read from it who has to act: the user, another
    machine, or nobody."""

    DELIVERED = 0
    SETTINGS = 2
    DATASET = 3
    MACHINE = 4
    TRAINING = 5
    NOT_DELIVERED = 6
    BUDGET = 7
    INTERNAL = 70
    STOPPED = 143


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, in the user's words, and what to do about it.

    `level` is `error` where the run has to end, `warning` where it can but money or quality is
    at stake, `note` where something was corrected or is merely worth knowing.
    """

    text: Message
    fix: Message = NO_TEXT
    level: Level = "error"

    def __str__(self) -> str:
        if not self.fix:
            return self.text
        return msg("{text}\n  fix: {fix}", text=self.text, fix=self.fix)


class TennerError(Exception):
    """A run that has to end. `problems` holds all of them; `exit_code` is that of its kind of
    failure.

    `is_delivered` is True once all that was trained until then is delivered and verified.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.TRAINING
    is_delivered = False

    def __init__(
        self,
        text: Message = NO_TEXT,
        *,
        fix: Message = NO_TEXT,
        problems: Sequence[Problem] = (),
    ) -> None:
        own = (Problem(text=text, fix=fix),) if text else ()
        self.problems: tuple[Problem, ...] = own + tuple(problems)
        super().__init__(joined(*(str(problem) for problem in self.problems), separator="\n"))


class SettingsError(TennerError):
    """The request is wrong: a key, a value, a path, a credential."""

    exit_code = ExitCode.SETTINGS


class DatasetError(TennerError):
    """The images or captions are wrong."""

    exit_code = ExitCode.DATASET


class MachineError(TennerError):
    """This machine cannot do the job; another one can."""

    exit_code = ExitCode.MACHINE


class TrainingError(TennerError):
    """Training failed; the last finite checkpoint, if any, is delivered."""

    exit_code = ExitCode.TRAINING


class DeliveryError(TennerError):
    """Trained, but not delivered: the files stay in the run's directory."""

    exit_code = ExitCode.NOT_DELIVERED


class BudgetReached(TennerError):
    """The budget or the deadline was reached; the best state is saved and delivered."""

    exit_code = ExitCode.BUDGET


class InternalError(TennerError):
    """A fault of tenner's own. 70 is what BSD's sysexits.h gives an internal software error."""

    exit_code = ExitCode.INTERNAL


class Stopped(TennerError):
    """A signal ended the run; its state is saved."""

    exit_code = ExitCode.STOPPED


def errors_in(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The problems that end the run."""
    return tuple(problem for problem in problems if problem.level == "error")

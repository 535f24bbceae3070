"""The history of each run, the file of histories, and the table of all runs."""

import collections
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

STEPS = 20
ALREADY_ENDED = "nothing, for it had ended"
"""What a run was doing whose kill came too late."""
Trouble = Literal[
    "kills",
    "trainer kills",
    "full disk",
    "refused deletes",
    "slow down 20",
    "slow down 40",
    "slow down 60",
    "expired token",
    "half-open sockets",
    "folder wiped",
]
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)


@dataclass
class Attempt:
    """One start. `killed_while` is what it was doing when it was killed, empty if it was not."""

    killed_while: str
    on_empty: bool
    seconds: float


@dataclass
class History:
    """How a run went.

    `wrong` lists what did not hold, `ledger_steps` is the sum of steps over the attempts of the
    ledger, `left` are names of files left behind.
    """

    trouble: Trouble
    attempts: list[Attempt] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    steps_trained: int = 0
    trainer_kills: int = 0
    codes: list[int] = field(default_factory=list)
    ledger_steps: int = 0
    left: list[str] = field(default_factory=list)
    is_equal: bool = False

    def __str__(self) -> str:
        cut = ", ".join(
            f"{attempt.killed_while}{' (empty machine)' if attempt.on_empty else ''}"
            for attempt in self.attempts
            if attempt.killed_while
        )
        return f"{self.trouble}; killed while {cut}: {'; '.join(self.wrong) or 'all held'}"


def read_histories(progress: Path) -> dict[int, History]:
    """The histories of earlier starts, by the number of the run."""
    found: dict[int, History] = {}
    for line in progress.read_text().splitlines() if progress.is_file() else []:
        saved = json.loads(line)
        number, attempts = (
            saved.pop("run"),
            [Attempt(**attempt) for attempt in saved.pop("attempts")],
        )
        found[number] = History(attempts=attempts, **saved)
    return found


def table(histories: list[History]) -> str:
    """The results, by trouble and in all, as a table in Markdown."""
    heads = ("trouble", "runs", "held", "kills", "trainer kills", "empty machines", "bit-equal")
    heads = (*heads, "left behind", "ledger adds up")
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for trouble in (*TROUBLES, "all"):
        found = [each for each in histories if trouble in (each.trouble, "all")]
        attempts = [attempt for history in found for attempt in history.attempts]
        numbers = (
            len(found),
            sum(not each.wrong for each in found),
            sum(attempt.killed_while not in ("", ALREADY_ENDED) for attempt in attempts),
            sum(each.trainer_kills for each in found),
            sum(attempt.on_empty for attempt in attempts),
            sum(each.is_equal for each in found),
            sum(len(each.left) for each in found),
            sum(each.ledger_steps == STEPS for each in found),
        )
        lines.append(f"| {trouble} | {' | '.join(map(str, numbers))} |")
    doing = collections.Counter(
        attempt.killed_while
        for history in histories
        for attempt in history.attempts
        if attempt.killed_while
    )
    return "\n".join([*lines, "", f"killed while: {dict(doing.most_common())}"])

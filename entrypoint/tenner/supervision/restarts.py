"""A trainer that was killed from outside is started again: how often, and when with less memory.

Its states are still there, whatever killed it (the kernel for memory, a host, an operator).
Resuming from the newest costs what was trained since; ending the run costs a user's night. Pure.
"""

from dataclasses import dataclass
from typing import ClassVar

from tenner.core.events import FailureKind

KILLED_FROM_OUTSIDE: frozenset[FailureKind] = frozenset(("killed", "host_memory"))


@dataclass(kw_only=True)
class Restarts:
    """Counts the restarts of one attempt.

    `IN_A_ROW` of them may pass without a newer state; `IN_ALL` is what an attempt has, so that a
    host that kills after every state does not have the machine rented for ever.
    """

    IN_A_ROW: ClassVar[int] = 3
    IN_ALL: ClassVar[int] = 20

    in_a_row: int = 0
    in_all: int = 0
    newest_step: int = -1

    def allows(self, newest_step: int) -> bool:
        """Whether the trainer may be started again, its newest state being of `newest_step`;
        counts it as started."""
        if newest_step > self.newest_step:
            self.newest_step, self.in_a_row = newest_step, 0
        if self.in_a_row >= self.IN_A_ROW or self.in_all >= self.IN_ALL:
            return False
        self.in_a_row += 1
        self.in_all += 1
        return True

    def wants_less_memory(self, kind: FailureKind) -> bool:
        """Whether the next start should use less of the machine's memory: at once where memory is
        known to be the cause, else after a second kill at the same step."""
        return kind == "host_memory" or self.in_a_row > 1

    @property
    def pause_seconds(self) -> float:
        """What a host is given to recover before the next start."""
        return (0.0, 0.0, 5.0, 15.0)[min(self.in_a_row, 3)]

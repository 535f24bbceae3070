"""How often a trainer that was killed from outside is restarted, and when with less memory.

Its states still exist, whatever killed it (the kernel for memory, a host, an operator). Resuming
from the newest loses only the steps since; ending the run would stop an unattended one. Pure.
"""

from dataclasses import dataclass
from typing import ClassVar

from tenner.core.events import FailureKind

KILLED_FROM_OUTSIDE: frozenset[FailureKind] = frozenset(("killed", "host_memory"))


@dataclass(kw_only=True)
class Restarts:
    """Counts the restarts of one attempt.

    At most `IN_A_ROW` of them without a newer state, and `IN_ALL` in the attempt, so that a host
    that kills after every state does not cost money without end.
    """

    IN_A_ROW: ClassVar[int] = 3
    IN_ALL: ClassVar[int] = 20

    in_a_row: int = 0
    in_all: int = 0
    newest_step: int = -1

    def allows(self, newest_step: int) -> bool:
        """Whether the trainer may be restarted from its newest state, of `newest_step`; counts the
        restart if so."""
        if newest_step > self.newest_step:
            self.newest_step, self.in_a_row = newest_step, 0
        if self.in_a_row >= self.IN_A_ROW or self.in_all >= self.IN_ALL:
            return False
        self.in_a_row += 1
        self.in_all += 1
        return True

    def needs_less_memory(self, kind: FailureKind) -> bool:
        """Whether the next start should use less of the machine's memory: at once where memory is
        known to be the cause, else after a second kill at the same step."""
        return kind == "host_memory" or self.in_a_row > 1

    @property
    def pause_seconds(self) -> float:
        """The time for the host to recover before the next start."""
        return (0.0, 0.0, 5.0, 15.0)[min(self.in_a_row, 3)]

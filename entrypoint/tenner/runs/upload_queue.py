"""The upload queue of one destination, as a state machine. Pure: no clock, no thread, no network;
methods take the time as `now`, in seconds of a monotonic clock.

All checkpoints are sent, but only the newest state, so a slow destination is at most one state
behind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from tenner.runs.upload_item import Speed, UploadItem

RETRY_SECONDS = 30.0
"""Wait after a failed upload, besides the retries within it."""
HURRIED_RETRY_SECONDS = 1.0
GATHER_SECONDS = 60.0
"""How long a set waits for more items: a state is written right after its step's checkpoint."""
_MARGIN = 1.5
"""An upload counts as possible in time where so many times its estimated seconds are left."""


class State(Enum):
    """The state of a queue."""

    IDLE = auto()
    """Empty."""
    GATHERING = auto()
    """Items wait for others of the same set."""
    PAUSED = auto()
    """Items wait after a failure, or between two commits."""
    READY = auto()
    """Items can be sent."""
    SENDING = auto()
    """An upload is running."""
    CLOSED = auto()
    """Closed for good."""


_WAITING = frozenset({State.IDLE, State.GATHERING, State.PAUSED, State.READY})
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.IDLE: _WAITING | {State.CLOSED},
    State.GATHERING: _WAITING | {State.CLOSED},
    State.PAUSED: _WAITING | {State.CLOSED},
    State.READY: _WAITING | {State.SENDING, State.CLOSED},
    State.SENDING: _WAITING | {State.CLOSED},
    State.CLOSED: frozenset(),
}
"""The states that may follow each state."""


class Cleanup(Enum):
    """Which states to remove at the destination."""

    NOTHING = auto()
    OLDER_STATES = auto()
    ALL_STATES = auto()


@dataclass(frozen=True, kw_only=True)
class UploadPolicy:
    """What is sent to a destination, and how.

    The `keep_states` newest states stay there; with 0 none is sent. `sends_notes` is whether the
    ledger and the events are sent. With `in_sets` all queued items are sent in one commit, a
    checkpoint with the state of its step, and notes only with items. The seconds are waits: after a
    failure, between two uploads, and for the rest of a set.
    """

    keep_states: int = 0
    sends_notes: bool = True
    in_sets: bool = False
    retry_seconds: float = RETRY_SECONDS
    pause_seconds: float = 0.0
    gather_seconds: float = GATHER_SECONDS


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One action at a destination: send `items`, or the notes alone, or remove all states.

    With `with_notes` the notes are sent in the same commit, with `notes_first` before the items.
    The `keep_states` newest states stay; None leaves all.
    """

    kind: Literal["items", "notes", "drop_states"]
    items: tuple[UploadItem, ...] = ()
    with_notes: bool = False
    notes_first: bool = False
    keep_states: int | None = None

    @property
    def states(self) -> tuple[UploadItem, ...]:
        return tuple(item for item in self.items if item.is_state)


class UploadQueue:
    """The queue of one destination as a state machine. Not safe to call from several threads.

    `state` is one of `State` and moves along `TRANSITIONS` alone. Time moves it by `update(now)`.
    """

    def __init__(self, policy: UploadPolicy) -> None:
        self.policy = policy
        self.state = State.IDLE
        self.speed = Speed()
        self.under_way: Upload | None = None
        self._checkpoints: list[UploadItem] = []
        self._newest_state: UploadItem | None = None
        self._has_notes = False
        self._cleanup = Cleanup.NOTHING
        self._hurry_until: float | None = None
        self._not_before = 0.0
        self._gathering_since = 0.0

    # Input

    def add_checkpoint(self, item: UploadItem, now: float) -> None:
        """Add a weights file or another file; it replaces a queued one of the same name."""
        self._begin_to_gather(now)
        self._checkpoints = [each for each in self._checkpoints if each.name != item.name]
        self._checkpoints.append(item)
        self.update(now)

    def add_state(self, item: UploadItem, now: float) -> UploadItem | None:
        """Add a state; it replaces the queued one, which is returned."""
        self._begin_to_gather(now)
        replaced, self._newest_state = self._newest_state, item
        self.update(now)
        return replaced

    def add_notes(self, now: float) -> None:
        """The ledger or the events have changed."""
        self._has_notes = self._has_notes or self.policy.sends_notes
        self.update(now)

    def reset(self, now: float) -> UploadItem | None:
        """The run starts over: remove queued weights and states, and remove the sent states before
        anything else is sent. Returns the queued state."""
        dropped, self._newest_state = self._newest_state, None
        self._checkpoints = [each for each in self._checkpoints if not each.is_weights]
        self._cleanup = Cleanup.ALL_STATES if self.policy.keep_states else Cleanup.NOTHING
        self.update(now)
        return dropped

    def hurry(self, until: float, now: float) -> None:
        """Send without waits from now on, and first what can arrive before `until`."""
        self._hurry_until, self._not_before = until, 0.0
        self.update(now)

    def close(self) -> bool:
        """Close the queue. False where it was closed before."""
        if self.state is State.CLOSED:
            return False
        self._enter(State.CLOSED)
        return True

    # Output

    def take(self, now: float) -> Upload | None:
        """Start and return the next upload; None where nothing can be sent yet."""
        self.update(now)
        if self.state is not State.READY:
            return None
        self.under_way = self._next(now)
        self._enter(State.SENDING)
        return self.under_way

    def succeeded(self, now: float) -> None:
        """The running upload was successful."""
        upload = self._finished()
        if upload.kind == "drop_states":
            self._cleanup = Cleanup.NOTHING
            self._has_notes = self._has_notes or self.policy.sends_notes
        elif upload.kind == "notes" and self._cleanup is Cleanup.OLDER_STATES:
            self._cleanup = Cleanup.NOTHING
        elif upload.kind == "items" and not self.policy.in_sets:
            self._has_notes = self.policy.sends_notes
            if upload.states and self._cleanup is Cleanup.NOTHING:
                self._cleanup = Cleanup.OLDER_STATES
        if self._hurry_until is None:
            self._not_before = now + self.policy.pause_seconds
        self._leave_sending(now)

    def failed(self, missing: Sequence[UploadItem], now: float) -> bool:
        """The running upload failed. Its items are queued again, except for `missing` ones, whose
        files do not exist any more, and outdated ones.

        Returns whether to warn of the failure: not where its items are outdated.
        """
        upload = self._finished()
        if self.state is State.CLOSED:
            return False
        is_replaced = self._newest_state is not None or self._cleanup is Cleanup.ALL_STATES
        outdated = bool(missing) or (bool(upload.states) and is_replaced)
        if upload.kind != "items" or self.policy.in_sets:
            self._has_notes = self._has_notes or self.policy.sends_notes
        for item in upload.items:
            if item not in missing:
                self._put_back(item, outdated=outdated)
        hurried = self._hurry_until is not None
        self._not_before = now + self._retry_seconds(outdated=outdated, hurried=hurried)
        self._leave_sending(now)
        return not (outdated and (hurried or missing))

    # Queries

    @property
    def is_busy(self) -> bool:
        """Whether anything is queued or being sent."""
        return self._is_pending() or self.under_way is not None

    @property
    def is_outdated(self) -> bool:
        """Whether the running upload has a state that a queued one replaces."""
        newest = self._newest_state
        if newest is None or self.under_way is None:
            return False
        return any(item.step < newest.step for item in self.under_way.states)

    @property
    def items(self) -> tuple[UploadItem, ...]:
        """All items that are queued or being sent."""
        under_way = self.under_way.items if self.under_way else ()
        return (*self._waiting_items(), *under_way)

    def update(self, now: float) -> None:
        """Enter the state that follows from the queued items and the time."""
        if self.state in _WAITING:
            self._enter(self._waiting_state(now))

    # Transitions

    def _enter(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self.state.name} cannot become {state.name}")
        self.state = state

    def _waiting_state(self, now: float) -> State:
        if not self._is_pending():
            return State.IDLE
        if now < self._not_before:
            return State.PAUSED
        gathers = self.policy.in_sets and self._hurry_until is None
        gathers = gathers and self._cleanup is not Cleanup.ALL_STATES
        return State.GATHERING if gathers and not self._is_complete(now) else State.READY

    def _finished(self) -> Upload:
        upload, self.under_way = self.under_way, None
        if upload is None:
            raise AssertionError("no upload is under way")
        return upload

    def _leave_sending(self, now: float) -> None:
        if self.state is State.SENDING:
            self._enter(self._waiting_state(now))

    def _is_pending(self) -> bool:
        removes_all = self._cleanup is Cleanup.ALL_STATES
        return bool(self._waiting_items()) or self._has_notes or removes_all

    def _waiting_items(self) -> tuple[UploadItem, ...]:
        state = (self._newest_state,) if self._newest_state else ()
        return (*self._checkpoints, *state)

    def _begin_to_gather(self, now: float) -> None:
        if not self._waiting_items():
            self._gathering_since = now

    def _is_complete(self, now: float) -> bool:
        """Whether the set is complete, or has waited for `gather_seconds`."""
        if not self._waiting_items():
            return False
        newest = max((item.step for item in self._checkpoints), default=0)
        state = self._newest_state
        if not self.policy.keep_states or (state and state.step >= newest):
            return True
        return now >= self._gathering_since + self.policy.gather_seconds

    def _next(self, now: float) -> Upload:
        """The next upload; its items are taken out of the queue."""
        policy = self.policy
        if self._cleanup is Cleanup.ALL_STATES:
            return Upload(kind="drop_states")
        items = self._next_items(now)
        if not items:
            self._has_notes = False
            older = self._cleanup is Cleanup.OLDER_STATES
            keep = policy.keep_states if older else None
            return Upload(kind="notes", with_notes=policy.sends_notes, keep_states=keep)
        has_state = any(item.is_state for item in items)
        if policy.in_sets:
            self._has_notes = False
            keep = policy.keep_states if has_state else None
            return Upload(
                kind="items", items=items, with_notes=policy.sends_notes, keep_states=keep
            )
        # The ledger first, so that no state exists there without it.
        return Upload(kind="items", items=items, notes_first=has_state and policy.sends_notes)

    def _next_items(self, now: float) -> tuple[UploadItem, ...]:
        """The newest weights, then the state, then older weights; in a hurry first the state, which
        has the weights too, if it can arrive in time. With `in_sets` all together, in a hurry if
        they can arrive in time."""
        state, every = self._newest_state, self._waiting_items()
        if self.policy.in_sets and (self._hurry_until is None or self._arrive_in_time(every, now)):
            self._checkpoints, self._newest_state = [], None
            return every
        newest = max(self._checkpoints, key=lambda p: (p.is_weights, p.step), default=None)
        if state and (
            newest is None or newest.step < state.step or self._arrive_in_time((state,), now)
        ):
            self._newest_state = None
            return (state,)
        if newest is None:
            return ()
        self._checkpoints.remove(newest)
        return (newest,)

    def _arrive_in_time(self, items: Sequence[UploadItem], now: float) -> bool:
        speed = self.speed.bytes_per_second
        if self._hurry_until is None or speed is None:
            return False
        return now + _MARGIN * sum(item.num_bytes for item in items) / speed < self._hurry_until

    def _put_back(self, item: UploadItem, *, outdated: bool) -> None:
        if item.is_state:
            if not outdated:
                self._newest_state = item
        elif all(each.name != item.name for each in self._checkpoints):
            self._checkpoints.append(item)

    def _retry_seconds(self, *, outdated: bool, hurried: bool) -> float:
        if outdated:
            return 0.0
        wait = self.policy.retry_seconds
        return min(HURRIED_RETRY_SECONDS, wait) if hurried else wait

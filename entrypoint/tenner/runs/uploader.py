"""Brings what a run saves to its destinations while it trains, and never holds the trainer up.

Each destination has a thread of its own, which stands behind the training. Checkpoints are all
sent; of the states only the newest, so a slow destination falls behind by one state and not by all.
A state is first linked into the run's `outbox`, since engines drop their older states when they
please.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DeliveryError
from tenner.core.events import Event, Sent, Warned
from tenner.core.priority import yield_thread
from tenner.core.run_dir import RunDir
from tenner.runs.remote_run import RemoteRun, Shipment
from tenner.runs.upload_item import Speed, UploadItem, link_tree, notes_of

AGAIN_SECONDS = 30.0
"""Wait after something could not be sent, on top of the tries that were made meanwhile."""
HUB_PAUSE_SECONDS = 180.0
"""Between sets to the Hugging Face Hub, where each is a commit: its repositories are kept from
growing by a commit every few seconds, and the delivery from a rate limit."""
GATHER_SECONDS = 60.0
"""How long a set waits for more: the state of a checkpoint's step is written right after it."""


class Line:
    """One destination's parcels and the thread that sends them.

    With `in_sets` all that waits goes together, in one act, a checkpoint with the state of its
    step; notes alone wait for company.
    """

    def __init__(
        self,
        remote: RemoteRun,
        run_dir: RunDir,
        *,
        number: int,
        keep_states: int,
        sends_notes: bool = True,
        in_sets: bool = False,
        on_event: Callable[[Event], None],
        again_seconds: float = AGAIN_SECONDS,
        pause_seconds: float = 0.0,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        self.remote = remote
        self.speed = Speed()
        self.trouble: DeliveryError | None = None
        self._place = run_dir
        self._outbox = run_dir.path / "outbox" / str(number)
        self._keep_states = keep_states
        self._sends_notes = sends_notes
        self._in_sets = in_sets
        self._on_event = on_event
        self._again_seconds = again_seconds
        self._pause_seconds = pause_seconds
        self._gather_seconds = gather_seconds
        self._turn = threading.Condition()
        self._checkpoints: list[UploadItem] = []
        self._state: UploadItem | None = None
        self._notes = False
        self._older_states = False
        self._forgets = False
        self._under_way: tuple[UploadItem, ...] = ()
        self._busy = False
        self._closing = False
        self._hurry_until: float | None = None
        self._not_before = 0.0
        self._since = 0.0
        self._thread = threading.Thread(target=self._work, name="tenner-courier", daemon=True)

    def start(self) -> None:
        shutil.rmtree(self._outbox, ignore_errors=True)
        self._thread.start()

    def take_checkpoint(self, path: Path, name: str, step: int) -> None:
        """Send a weights file as `name`. Gives back at once."""
        with self._turn:
            self._begin_to_gather()
            self._checkpoints = [each for each in self._checkpoints if each.name != name]
            self._checkpoints.append(UploadItem(path=path, step=step, name=name))
            self._turn.notify_all()

    def take_state(self, folder: Path, step: int) -> None:
        """Send a state, in place of one that still waits. Raises OSError."""
        if not self._keep_states:
            return
        staged = self._outbox / folder.name
        shutil.rmtree(staged, ignore_errors=True)
        link_tree(folder, staged)
        with self._turn:
            self._begin_to_gather()
            older, self._state = self._state, UploadItem(path=staged, step=step)
            self._turn.notify_all()
        if older and older.path != staged:
            shutil.rmtree(older.path, ignore_errors=True)

    def forget(self) -> None:
        """The run starts anew: weights and states that wait or are under way are not sent, and the
        states that were are dropped before anything else is sent."""
        with self._turn:
            older, self._state = self._state, None
            self._checkpoints = [each for each in self._checkpoints if not each.is_weights]
            self._forgets = self._keep_states > 0
            under_way = self._under_way
            self._turn.notify_all()
        if older:
            shutil.rmtree(older.path, ignore_errors=True)
        if any(item.is_state or item.is_weights for item in under_way):
            self.remote.cancel()

    def note(self) -> None:
        """The ledger or the events have news worth sending."""
        if not self._sends_notes:
            return
        with self._turn:
            self._notes = True
            self._turn.notify_all()

    def hurry(self, until: float) -> None:
        """Only what ends before `until` (monotonic) counts now: a state that a newer one makes
        worthless is no longer sent, and nothing waits for a better moment."""
        with self._turn:
            self._hurry_until, self._not_before = until, 0.0
            newer = self._state
            outdated = newer and any(p.is_state and p.step < newer.step for p in self._under_way)
            self._turn.notify_all()
        if outdated:
            self.remote.cancel()

    def wait(self, until: float) -> bool:
        """Wait for everything to be sent, no longer than `until`. Whether it is."""
        with self._turn:
            while (self._pending() or self._busy) and time.monotonic() < until:
                if not self._thread.is_alive():
                    break
                self._turn.wait(min(0.25, max(0.0, until - time.monotonic())))
            return not self._pending() and not self._busy and self.trouble is None

    def close(self) -> None:
        """End now, whatever still waits."""
        with self._turn:
            if self._closing:
                return
            self._closing = True
            self._turn.notify_all()
        self.remote.cancel()
        if self._thread.is_alive():
            self._thread.join(5.0)
        shutil.rmtree(self._outbox, ignore_errors=True)

    @property
    def keeps_states(self) -> bool:
        return self._keep_states > 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are still to be sent."""
        with self._turn:
            parcels = [*self._checkpoints, self._state, *self._under_way]
        found = 0
        for item in parcels:
            with contextlib.suppress(OSError):
                found += item.num_bytes if item else 0
        return found

    def _pending(self) -> bool:
        return bool(self._checkpoints or self._state or self._notes or self._forgets)

    def _begin_to_gather(self) -> None:
        if not (self._checkpoints or self._state):
            self._since = time.monotonic()

    def _work(self) -> None:
        yield_thread()
        while True:
            with self._turn:
                self._busy = False
                self._turn.notify_all()
                while not self._closing and not (self._pending() and self._is_time()):
                    self._turn.wait(1.0)
                if self._closing:
                    return
                self._busy = True
                parcels = () if self._forgets else self._next()
                self._under_way = parcels
                if not self._forgets:
                    self._notes = self._notes and bool(parcels) and not self._in_sets
            try:
                if parcels:
                    self._send(parcels)
                elif self._forgets:
                    self._forget()
                else:
                    self._send_notes()
                self.trouble = None
                self._rest()
            except (DeliveryError, OSError) as error:
                self._failed(parcels, error)
            finally:
                with self._turn:
                    self._under_way = ()

    def _rest(self) -> None:
        with self._turn:
            if self._hurry_until is None:
                self._not_before = time.monotonic() + self._pause_seconds

    def _is_time(self) -> bool:
        gathers = self._in_sets and self._hurry_until is None and not self._forgets
        if gathers and not self._is_gathered():
            return False
        return time.monotonic() >= self._not_before

    def _is_gathered(self) -> bool:
        """Whether all that belongs together is here, or was waited for long enough."""
        if not (self._checkpoints or self._state):
            return False
        newest = max((item.step for item in self._checkpoints), default=0)
        if not self._keep_states or (self._state and self._state.step >= newest):
            return True
        return time.monotonic() >= self._since + self._gather_seconds

    def _next(self) -> tuple[UploadItem, ...]:
        """The newest weights, then the state, then older weights; in a hurry the state, which
        holds the weights too, goes first where it will arrive in time. In sets all together, in a
        hurry where they will arrive in time."""
        state = self._state
        every = (*self._checkpoints, *((state,) if state else ()))
        if self._in_sets and (self._hurry_until is None or self._arrive_in_time(every)):
            self._checkpoints, self._state = [], None
            return every
        newest = max(self._checkpoints, key=lambda p: (p.is_weights, p.step), default=None)
        if state and (newest is None or newest.step < state.step or self._arrive_in_time((state,))):
            self._state = None
            return (state,)
        if newest is None:
            return ()
        self._checkpoints.remove(newest)
        return (newest,)

    def _arrive_in_time(self, parcels: Sequence[UploadItem]) -> bool:
        speed = self.speed.bytes_per_second
        if self._hurry_until is None or speed is None:
            return False
        num_bytes = sum(item.num_bytes for item in parcels)
        return time.monotonic() + 1.5 * num_bytes / speed < self._hurry_until

    def _send(self, parcels: Sequence[UploadItem]) -> None:
        states = [item for item in parcels if item.is_state]
        if states and self._sends_notes and not self._in_sets and not self._forgets:
            # A state is never seen without what led to it; older ones go once it is there.
            self.remote.put_set(Shipment(notes=self._notes_now()))
        sizes = [item.num_bytes for item in parcels]
        started = time.monotonic()
        self.remote.put_set(self._shipment(parcels))
        seconds = time.monotonic() - started
        self.speed.add(sum(sizes), seconds)
        for item, num_bytes in zip(parcels, sizes, strict=True):
            self._on_event(
                Sent(
                    what=item.what,
                    step=item.step,
                    destination=str(self.remote.destination),
                    num_bytes=num_bytes,
                    seconds=round(seconds, 3),
                )
            )
        for state in states:
            shutil.rmtree(state.path, ignore_errors=True)
        if not self._in_sets:
            with self._turn:
                self._notes = self._sends_notes
                self._older_states = self._older_states or bool(states)

    def _shipment(self, parcels: Sequence[UploadItem]) -> Shipment:
        state = next((item for item in parcels if item.is_state), None)
        weights = [item for item in parcels if not item.is_state]
        return Shipment(
            files=tuple(DeliveredFile(path=each.path, name=each.name) for each in weights),
            notes=self._notes_now() if self._in_sets else (),
            state=(state.path, state.step) if state else None,
            keep_states=self._keep_states if self._in_sets and state else None,
        )

    def _notes_now(self) -> tuple[tuple[str, bytes], ...]:
        return notes_of(self._place) if self._sends_notes else ()

    def _forget(self) -> None:
        self.remote.drop_states(0)
        with self._turn:
            self._forgets, self._older_states = False, False
            self._notes = self._notes or self._sends_notes

    def _send_notes(self) -> None:
        keep = self._keep_states if self._older_states else None
        self.remote.put_set(Shipment(notes=self._notes_now(), keep_states=keep))
        self._older_states = False

    def _failed(self, parcels: Sequence[UploadItem], error: DeliveryError | OSError) -> None:
        """Keep what was not sent for later, unless newer ones took its place, and say so once."""
        known = error if isinstance(error, DeliveryError) else DeliveryError(str(error))
        with self._turn:
            if self._closing:
                return
            states = [item for item in parcels if item.is_state]
            gone = [item for item in parcels if not item.path.exists()]  # put aside meanwhile
            outdated = bool(states) and (self._state is not None or self._forgets)
            outdated = outdated or bool(gone)
            self._notes = self._notes or self._in_sets or not parcels
            for item in parcels:
                if item in gone:
                    continue
                if not item.is_state and all(e.name != item.name for e in self._checkpoints):
                    self._checkpoints.append(item)
                elif item.is_state and not outdated:
                    self._state = item
            hurried = self._hurry_until is not None
            pause = 0.0 if outdated else min(1.0, self._again_seconds) if hurried else None
            pause = self._again_seconds if pause is None else pause
            self._not_before = time.monotonic() + pause
        if outdated and (hurried or gone):
            return
        if self.trouble is None or str(self.trouble) != str(known):
            text = f"not yet at {self.remote.destination}: {known.problems[0].text}"
            self._on_event(Warned(text=text, fix="it is tried again while the training goes on"))
        self.trouble = known


@dataclass(frozen=True, kw_only=True)
class Uploader:
    """All destinations of a run. Used as a context: no thread outlives it."""

    run_dir: RunDir
    lines: Sequence[Line] = ()

    def __enter__(self) -> "Uploader":
        for line in self.lines:
            line.start()
        return self

    def __exit__(self, *of_the_error: object) -> None:
        self.stop()

    def take_checkpoint(self, path: Path, name: str, step: int) -> None:
        for line in self.lines:
            line.take_checkpoint(path, name, step)

    def take_state(self, folder: Path, step: int) -> None:
        for line in self.lines:
            line.take_state(folder, step)

    def forget(self) -> None:
        for line in self.lines:
            line.forget()

    def note(self) -> None:
        for line in self.lines:
            line.note()

    def hand_over(self, seconds: float) -> tuple[str, ...]:
        """Send what waits, the newest first, within `seconds`. Gives the destinations that hold
        everything now."""
        until = time.monotonic() + seconds
        for line in self.lines:
            line.hurry(until)
        return tuple(str(each.remote.destination) for each in self.lines if each.wait(until))

    def stop(self) -> None:
        """Send nothing more."""
        for line in self.lines:
            line.close()
        with contextlib.suppress(OSError):
            (self.run_dir.path / "outbox").rmdir()

    @property
    def bytes_per_second(self) -> float | None:
        """The speed of the slowest destination, as measured; None where nothing was sent yet."""
        speeds = [line.speed.bytes_per_second for line in self.lines]
        return min((speed for speed in speeds if speed), default=None)

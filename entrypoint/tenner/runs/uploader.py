"""Sends the files of a run to its destinations while it trains, without blocking the trainer.

Each destination has its own thread, of a lower priority than the training; its `UploadQueue`
decides what is sent next. States are first linked into the run's `outbox`, since engines may delete
their older states at any time.
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
from tenner.core.messages import as_message, msg
from tenner.core.priority import lower_thread_priority
from tenner.core.run_dir import RunDir
from tenner.runs.remote_run import RemoteRun, Shipment
from tenner.runs.upload_item import Speed, UploadItem, link_tree, notes_of
from tenner.runs.upload_queue import State, Upload, UploadPolicy, UploadQueue

HUB_PAUSE_SECONDS = 180.0
"""Between sets to the Hugging Face Hub, where each is a commit: against a long history and the
Hub's rate limit for commits."""


class DestinationUploader:
    """One destination's queue and the thread that sends its items. Safe to call from any thread.

    `index` is the destination's position in the run's list, and its folder's name in the outbox.
    """

    def __init__(
        self,
        remote: RemoteRun,
        run_dir: RunDir,
        policy: UploadPolicy,
        *,
        on_event: Callable[[Event], None],
        index: int = 0,
    ) -> None:
        self.remote = remote
        self.last_error: DeliveryError | None = None
        self._policy = policy
        self._run_dir = run_dir
        self._outbox = run_dir.path / "outbox" / str(index)
        self._on_event = on_event
        self._queue = UploadQueue(policy)
        self._changed = threading.Condition()  # guards the queue
        self._thread = threading.Thread(target=self._work, name="tenner-uploader", daemon=True)

    def start(self) -> None:
        shutil.rmtree(self._outbox, ignore_errors=True)
        self._thread.start()

    def take_checkpoint(self, path: Path, name: str, step: int) -> None:
        """Queue a file to be sent as `name`."""
        with self._changed:
            item = UploadItem(path=path, step=step, name=name)
            self._queue.add_checkpoint(item, time.monotonic())
            self._changed.notify_all()

    def take_state(self, folder: Path, step: int) -> None:
        """Queue a state; it replaces one that is not sent yet. Raises OSError."""
        if not self.sends_states:
            return
        staged = self._outbox / folder.name
        shutil.rmtree(staged, ignore_errors=True)
        link_tree(folder, staged)
        with self._changed:
            item = UploadItem(path=staged, step=step)
            replaced = self._queue.add_state(item, time.monotonic())
            self._changed.notify_all()
        if replaced and replaced.path != staged:
            shutil.rmtree(replaced.path, ignore_errors=True)

    def forget(self) -> None:
        """The run starts over: cancel queued and running uploads of weights and states, and remove
        the sent states before anything else is sent."""
        with self._changed:
            dropped = self._queue.reset(time.monotonic())
            upload = self._queue.under_way
            self._changed.notify_all()
        if dropped:
            shutil.rmtree(dropped.path, ignore_errors=True)
        if upload and any(item.is_state or item.is_weights for item in upload.items):
            self.remote.cancel()

    def note(self) -> None:
        """Queue the ledger and the events, which have changed."""
        with self._changed:
            self._queue.add_notes(time.monotonic())
            self._changed.notify_all()

    def hurry(self, until: float) -> None:
        """Send as much as possible before `until` (monotonic): without pauses, and without a state
        that a newer one replaces."""
        with self._changed:
            self._queue.hurry(until, time.monotonic())
            outdated = self._queue.is_outdated
            self._changed.notify_all()
        if outdated:
            self.remote.cancel()

    def wait(self, until: float) -> bool:
        """Wait until everything is sent, at most until `until`. Returns whether it is."""
        with self._changed:
            while self._queue.is_busy and time.monotonic() < until and self._thread.is_alive():
                self._changed.wait(min(0.25, max(0.0, until - time.monotonic())))
            return not self._queue.is_busy and self.last_error is None

    def close(self) -> None:
        """Cancel all uploads and end the thread."""
        with self._changed:
            if not self._queue.close():
                return
            self._changed.notify_all()
        self.remote.cancel()
        if self._thread.is_alive():
            self._thread.join(5.0)
        shutil.rmtree(self._outbox, ignore_errors=True)

    @property
    def sends_states(self) -> bool:
        return self._policy.keep_states > 0

    @property
    def speed(self) -> Speed:
        return self._queue.speed

    @property
    def waiting_bytes(self) -> int:
        """The bytes of all items that are queued or being sent."""
        with self._changed:
            items = self._queue.items
        num_bytes = 0
        for item in items:
            with contextlib.suppress(OSError):
                num_bytes += item.num_bytes
        return num_bytes

    def _work(self) -> None:
        lower_thread_priority()
        while upload := self._next():
            try:
                self._execute(upload)
            except (DeliveryError, OSError) as error:
                self._failed(upload, error)
                continue
            with self._changed:
                self.last_error = None
                self._queue.succeeded(time.monotonic())
                self._changed.notify_all()

    def _next(self) -> Upload | None:
        """Wait for the next upload; None once this is closed."""
        with self._changed:
            while self._queue.state is not State.CLOSED:
                if upload := self._queue.take(time.monotonic()):
                    return upload
                self._changed.wait(1.0)
            return None

    def _execute(self, upload: Upload) -> None:
        """Raises DeliveryError or OSError."""
        match upload.kind:
            case "drop_states":
                self.remote.drop_states(0)
            case "notes":
                self.remote.put_set(self._shipment(upload))
            case "items":
                self._send(upload)

    def _send(self, upload: Upload) -> None:
        if upload.notes_first:
            self.remote.put_set(Shipment(notes=notes_of(self._run_dir)))
        sizes = [item.num_bytes for item in upload.items]
        started = time.monotonic()
        self.remote.put_set(self._shipment(upload))
        seconds = time.monotonic() - started
        self.speed.add(sum(sizes), seconds)
        for item, num_bytes in zip(upload.items, sizes, strict=True):
            self._on_event(
                Sent(
                    what=item.what,
                    step=item.step,
                    destination=str(self.remote.destination),
                    num_bytes=num_bytes,
                    seconds=round(seconds, 3),
                )
            )
        for state in upload.states:
            shutil.rmtree(state.path, ignore_errors=True)

    def _shipment(self, upload: Upload) -> Shipment:
        state = next(iter(upload.states), None)
        files = [item for item in upload.items if not item.is_state]
        return Shipment(
            files=tuple(DeliveredFile(path=each.path, name=each.name) for each in files),
            notes=notes_of(self._run_dir) if upload.with_notes else (),
            state=(state.path, state.step) if state else None,
            keep_states=upload.keep_states,
        )

    def _failed(self, upload: Upload, error: DeliveryError | OSError) -> None:
        """Queue the failed items again, and warn once of each error."""
        known = error if isinstance(error, DeliveryError) else DeliveryError(as_message(str(error)))
        missing = [item for item in upload.items if not item.path.exists()]  # renamed, as broken
        with self._changed:
            warns = self._queue.failed(missing, time.monotonic())
            before = self.last_error
            self.last_error = known if warns else before
            self._changed.notify_all()
        if warns and (before is None or str(before) != str(known)):
            text = msg(
                "not yet uploaded to {destination}: {text}",
                destination=self.remote.destination,
                text=known.problems[0].text,
            )
            self._on_event(Warned(text=text, fix=msg("it is retried while the training continues")))


@dataclass(frozen=True, kw_only=True)
class Uploader:
    """All destinations of a run. A context that starts and ends their threads."""

    run_dir: RunDir
    destinations: Sequence[DestinationUploader] = ()

    def __enter__(self) -> "Uploader":
        for each in self.destinations:
            each.start()
        return self

    def __exit__(self, *of_the_error: object) -> None:
        self.stop()

    def take_checkpoint(self, path: Path, name: str, step: int) -> None:
        for each in self.destinations:
            each.take_checkpoint(path, name, step)

    def take_state(self, folder: Path, step: int) -> None:
        for each in self.destinations:
            each.take_state(folder, step)

    def forget(self) -> None:
        for each in self.destinations:
            each.forget()

    def note(self) -> None:
        for each in self.destinations:
            each.note()

    def hand_over(self, seconds: float) -> tuple[str, ...]:
        """Send all queued items within `seconds`, the newest first. Returns the destinations that
        have everything then."""
        until = time.monotonic() + seconds
        for each in self.destinations:
            each.hurry(until)
        complete = [each for each in self.destinations if each.wait(until)]
        return tuple(str(each.remote.destination) for each in complete)

    def stop(self) -> None:
        """Send nothing more."""
        for each in self.destinations:
            each.close()
        with contextlib.suppress(OSError):
            (self.run_dir.path / "outbox").rmdir()

    @property
    def bytes_per_second(self) -> float | None:
        """The speed of the slowest destination, as measured; None where nothing was sent yet."""
        speeds = [each.speed.bytes_per_second for each in self.destinations]
        return min((speed for speed in speeds if speed), default=None)

"""The files of a run at a destination while it trains, from which another machine can resume it.

Checkpoints are sent to their final names, so that the delivery need not send them again. All else
is in `.tenner/<job>/`: small files that change (the ledger, the live page), and states.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tenner.core.checksums import DeliveredFile, HashedFile, hash_file
from tenner.core.errors import DeliveryError, Problem
from tenner.core.files import sync_directory
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, retrying
from tenner.core.secrets import Secrets
from tenner.core.temporary_files import temporary_folder
from tenner.runs.deliver import edited_cards
from tenner.runs.remote_state import PackedState, RemoteState, pack_state
from tenner.runs.stored_states import StoredStates
from tenner.storage.destination import Destination
from tenner.storage.limited import LimitedCalls, OnTrouble
from tenner.storage.manifest import MANIFEST_NAME, RemoteEntry, make_manifest
from tenner.storage.permissions import ALL_PERMISSIONS, Permissions
from tenner.storage.sending import OWN_FOLDER, is_in_a_set, put_verified, withdraw
from tenner.storage.store import Store

DEFAULT_LIMIT_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """Files that are sent to a destination together, in one commit where it has commits.

    `files` have their names there, `notes` are (name in the run's own folder, content), `state` is
    (a folder that does not change, its absolute step). The `keep_states` newest states stay, the
    sent one included; None leaves all. `gone` are names of files to remove in the end, as far as
    the keys allow it.
    """

    files: tuple[DeliveredFile, ...] = ()
    notes: tuple[tuple[str, bytes], ...] = ()
    state: tuple[Path, int] | None = None
    keep_states: int | None = None
    gone: tuple[str, ...] = ()


def own_folder_of(job: str) -> str:
    """The folder of a run's own files below a destination."""
    return f"{OWN_FOLDER}/{_folder_name(job)}"


class RemoteRun:
    """One run's files at one destination. Safe to call from several threads.

    On the Hub every call that sends or removes something is a commit, of which it allows a limited
    number each hour: send small files rarely there.

    `job` distinguishes runs that share a destination. Every call ends within `limit_seconds` (and a
    grace of two), even where the destination never answers, and raises DeliveryError with the
    cause, redacted. `on_trouble` gets the text of each error that is retried.
    """

    def __init__(
        self,
        destination: Destination,
        job: str,
        secrets: Secrets,
        environ: Mapping[str, str],
        *,
        limit_seconds: float = DEFAULT_LIMIT_SECONDS,
        on_trouble: OnTrouble | None = None,
    ) -> None:
        self.destination = destination
        self.job = job
        self._folder = own_folder_of(job)
        self._calls = LimitedCalls(
            destination,
            secrets,
            environ,
            limit_seconds=limit_seconds,
            on_trouble=on_trouble,
        )
        self._call, self._again = self._calls.call, self._calls.again

    def put_set(
        self, shipment: Shipment, *, limit_seconds: float | None = None
    ) -> RemoteState | None:
        """Send a shipment and verify it; content that is there already is not sent again.

        The mark of its state is sent last, and older states are removed after it, or all in one
        commit. A partly sent state is completed. Returns the state there; None where the shipment
        has none, or the keys may not read.
        """
        if shipment.keep_states is not None and shipment.keep_states < 0:
            raise ValueError(f"keep_states = {shipment.keep_states}")
        with temporary_folder("set") as scratch:
            copies = self._written(shipment.notes, Path(scratch))
            hashed = make_manifest([*shipment.files, *copies]).files
            packed = self._packed(shipment.state, Path(scratch))
            keep_states = shipment.keep_states

            def put(store: Store, deadline: Deadline) -> RemoteState | None:
                left = self._again(deadline, lambda: edited_cards(store, hashed, deadline))
                sent = [file for file in hashed if file.name not in left]
                if store.whole_sets:
                    return self._put_at_once(store, sent, packed, shipment, deadline)
                self._put(store, sent, deadline)
                if shipment.gone and store.permissions(deadline).deletes:
                    with suppress(PermanentError):
                        self._again(deadline, lambda: store.delete(shipment.gone, deadline))
                if packed is None and keep_states is None:
                    return None
                states = self._states(store, deadline)
                if not states.permissions().reads:
                    return None  # it could not be resumed from with these keys
                coming = self._put_state(store, states, packed, deadline) if packed else None
                if keep_states is not None:
                    states.remove_older(keep_states, coming)
                return coming

            return self._call(put, limit_seconds)

    def permissions(self, *, limit_seconds: float | None = None) -> Permissions:
        """What the keys are allowed to do there besides writing."""
        if self.destination.kind != "s3":
            return ALL_PERMISSIONS
        return self._call(
            lambda store, deadline: self._again(deadline, lambda: store.permissions(deadline)),
            limit_seconds,
        )

    def states(self, *, limit_seconds: float | None = None) -> tuple[RemoteState, ...]:
        """The complete states of this job, the newest (highest step) first."""
        return self._call(
            lambda store, deadline: self._states(store, deadline).whole(), limit_seconds
        )

    def fetch_state(
        self, state: RemoteState, into: Path, *, limit_seconds: float | None = None
    ) -> None:
        """Fetch a state's files into the folder `into`, which must not exist yet.

        It is made only once all are verified by size and SHA-256. Files of an interrupted call
        stay in a folder beside it and are used by the next one.
        """
        if into.exists():
            raise DeliveryError(
                msg("{into} is there already", into=into),
                fix=msg("name a new folder for the state"),
            )
        part = into.with_name(f".{into.name[:100]}.{state.name}.part")

        def fetch(store: Store, deadline: Deadline) -> None:
            states = self._states(store, deadline)
            for entry in state.files:
                name = states.entry_name(state, entry)
                _fetch_verified(store, name, entry, part / entry.name, deadline)
            deadline.check()  # nothing appears after the caller got an error
            part.replace(into)
            sync_directory(into.parent)

        self._call(fetch, limit_seconds)

    def fetch_file(
        self, entry: RemoteEntry, into: Path, *, limit_seconds: float | None = None
    ) -> None:
        """Fetch one file of the destination, by its full name there, to `into`.

        It is made only once it is verified by size and SHA-256.
        """
        part = into.with_name(f".{into.name[:200]}.part")

        def fetch(store: Store, deadline: Deadline) -> None:
            _fetch_verified(store, entry.name, entry, part, deadline)
            deadline.check()
            part.replace(into)
            sync_directory(into.parent)

        self._call(fetch, limit_seconds)

    def drop_states(self, keep_states: int, *, limit_seconds: float | None = None) -> None:
        """Remove all but the `keep_states` newest complete states, and incomplete ones older than
        those. With 0 every state is removed.
        """
        self.put_set(Shipment(keep_states=keep_states), limit_seconds=limit_seconds)

    def put_file(self, name: str, path: Path, *, limit_seconds: float | None = None) -> None:
        """Send a small file of the run (the ledger, a lease) as it is now."""
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DeliveryError(
                msg("cannot read {path}: {reason}", path=path, reason=reason)
            ) from error
        self.put_set(Shipment(notes=((name, content),)), limit_seconds=limit_seconds)

    def get_file(self, name: str, *, limit_seconds: float | None = None) -> bytes | None:
        """The content that `put_file` sent last under this name, None where there is none."""
        whole = f"{self._folder}/{name}"
        return self._call(
            lambda store, deadline: self._again(deadline, lambda: store.read(whole, deadline)),
            limit_seconds,
        )

    def create_file(self, name: str, content: bytes, *, limit_seconds: float | None = None) -> bool:
        """Create a small file of the run; False where it exists."""
        whole = f"{self._folder}/{name}"
        return self._call(
            lambda store, deadline: self._again(
                deadline, lambda: store.create(whole, content, deadline)
            ),
            limit_seconds,
        )

    def names(self, under: str, *, limit_seconds: float | None = None) -> tuple[str, ...]:
        """The run's own files in the folder `under`, by their names in it."""
        start = f"{self._folder}/{under}"
        found = self._call(
            lambda store, deadline: self._again(deadline, lambda: store.names(start, deadline)),
            limit_seconds,
        )
        return tuple(name.removeprefix(f"{start}/") for name in found)

    def link(self, name: str) -> str:
        """A URL at which the file that `put_file` sent opens, or an empty text."""
        return self._call(lambda store, deadline: store.link(f"{self._folder}/{name}"), None)

    def cancel(self) -> None:
        """End all running calls now, as if their time were over."""
        self._calls.cancel()

    def _states(self, store: Store, deadline: Deadline) -> StoredStates:
        return StoredStates(
            store,
            f"{self._folder}/state",
            deadline,
            report=self._calls.report_once,
            on_retry=self._calls.report,
        )

    def _put_at_once(
        self,
        store: Store,
        files: Sequence[HashedFile],
        packed: PackedState | None,
        shipment: Shipment,
        deadline: Deadline,
    ) -> RemoteState | None:
        """Send files, a state with its mark, and the removal of older states, in one commit."""
        keep_states = shipment.keep_states
        coming = packed.state if packed else None
        states = (*packed.files, packed.mark) if packed else ()
        batches = (
            self._states(store, deadline).outdated_files(keep_states, coming)
            if keep_states is not None
            else []
        )
        gone = [*shipment.gone, *(name for names in batches for name in names)]
        self._put(store, [*files, *states], deadline, gone)
        return coming

    def _put_state(
        self, store: Store, states: StoredStates, packed: PackedState, deadline: Deadline
    ) -> RemoteState:
        if states.uses_slots():
            return states.put_in_slot(packed)
        for files in (packed.files, (packed.mark,)):
            self._put(store, files, deadline)
        return packed.state

    def _put(
        self,
        store: Store,
        files: Sequence[HashedFile],
        deadline: Deadline,
        gone: Sequence[str] = (),
    ) -> None:
        """Send what is missing of `files`; `gone` are removed in the same commit."""
        missing = self._again(deadline, lambda: store.missing(files, deadline)) if files else ()
        if not missing:
            if gone:
                self._again(deadline, lambda: store.delete(gone, deadline))
            return
        # The manifest there lists files that are replaced now: their set is not complete any more.
        replaced = self._again(deadline, lambda: is_in_a_set(store, missing, deadline))
        if replaced and not store.whole_sets:
            self._again(deadline, lambda: withdraw(store, [MANIFEST_NAME], deadline))
        elif replaced:
            gone = (*gone, MANIFEST_NAME)
        put_verified(store, missing, deadline, lambda num_bytes: None, self._calls.report, gone)

    def _written(self, notes: Sequence[tuple[str, bytes]], scratch: Path) -> list[DeliveredFile]:
        """The notes as files with their full names."""
        written: list[DeliveredFile] = []
        for number, (name, content) in enumerate(notes):
            path = scratch / f"note-{number}"
            path.write_bytes(content)
            written.append(DeliveredFile(path=path, name=f"{self._folder}/{name}"))
        return written

    def _packed(self, state: tuple[Path, int] | None, scratch: Path) -> PackedState | None:
        if state is None:
            return None
        folder, step = state
        remote_folder = f"{self._folder}/state"
        return pack_state(folder, step, job=self.job, remote_folder=remote_folder, scratch=scratch)


def _fetch_verified(
    store: Store, name: str, entry: RemoteEntry, target: Path, deadline: Deadline
) -> None:
    """Fetch one file and compare its size and hash. Raises PermanentError where they differ."""
    expected = (entry.size, entry.sha256)
    if target.is_file() and hash_file(target) == expected:
        return  # fetched by an earlier call that was interrupted later

    def once() -> None:
        store.fetch(name, target, deadline)
        if hash_file(target) != expected:
            target.unlink()
            text = msg(
                "{destination}: {name} is damaged: it is not what was sent (size or hash)",
                destination=store.destination,
                name=name,
            )
            raise PermanentError(
                Problem(text=text, fix=msg("resume from an older state")), code="damaged"
            )

    retrying(deadline, once)


def _folder_name(job: str) -> str:
    """A folder's name that is unique to the job: characters that some stores refuse become %XX."""
    name = "".join(char if char.isalnum() or char in "-_." else quote(char) for char in job)
    name = name.replace("/", "%2F")
    if not name.strip("."):
        raise ValueError(f"job = {job!r} is no name")
    return name

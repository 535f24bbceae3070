"""The states of one run at one destination: listed, added and removed.

A new state is sent first, with its mark; older ones are removed after that, as far as the keys
allow it. Where they may neither delete nor list, two folders are overwritten in turn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tenner.core.checksums import HashedFile
from tenner.core.messages import msg
from tenner.core.retry import Deadline, PermanentError, retrying
from tenner.runs.remote_state import (
    FILES,
    MARK,
    SLOTS,
    STATE_NAME,
    PackedState,
    RemoteState,
    newest_first,
    outdated,
    read_state,
)
from tenner.storage.manifest import RemoteEntry
from tenner.storage.permissions import Permissions
from tenner.storage.sending import put_verified, withdraw
from tenner.storage.store import Store

T = TypeVar("T")


class StoredStates:
    """The states in the folder `folder` of a store. Methods raise TransientError or PermanentError.

    `report` gets messages for the user, `on_retry` each error that is retried.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        deadline: Deadline,
        *,
        report: Callable[[str], None],
        on_retry: Callable[[str], None],
    ) -> None:
        self._store = store
        self._folder = folder
        self._deadline = deadline
        self._report = report
        self._on_retry = on_retry

    def permissions(self) -> Permissions:
        return self._again(lambda: self._store.permissions(self._deadline))

    def uses_slots(self) -> bool:
        """Whether states overwrite each other, as the keys may not list or delete old ones."""
        found = self.permissions()
        return not (found.lists and found.deletes)

    def whole(self) -> tuple[RemoteState, ...]:
        """The complete states, the newest first."""
        permissions = self.permissions()
        if not permissions.reads:
            return ()
        if permissions.lists:
            return self._marked(self._files())
        slots = (self._in_folder(slot, None) for slot in SLOTS)
        return newest_first([state for state in slots if state])

    def put_in_slot(self, packed: PackedState) -> RemoteState:
        """Overwrite the older of the two slots with a state."""
        slots = {slot: self._in_folder(slot, None) for slot in SLOTS}
        for slot, there in slots.items():
            if there and there == packed.in_folder(slot).state:
                return there
        slot = min(SLOTS, key=lambda name: older.step if (older := slots[name]) else -1)
        placed = packed.in_folder(slot)
        if slots[slot] is not None:
            self._withdraw([placed.mark.name])
        for files in (placed.files, (placed.mark,)):
            self._put(files)
        return placed.state

    def outdated_files(self, keep_states: int, coming: RemoteState | None) -> list[list[str]]:
        """The files of states to remove, in batches: each state's mark before its other files."""
        found = self._files()
        whole = [each for each in self._marked(found) if each != coming]
        gone = outdated(newest_first([*whole, *([coming] if coming else [])]), found, keep_states)
        batches: list[list[str]] = []
        for state, names in gone.items():
            mark = self.name(state, MARK)
            batches += [[n for n in names if n == mark], [n for n in names if n != mark]]
        return [batch for batch in batches if batch]

    def remove_older(self, keep_states: int, coming: RemoteState | None) -> None:
        """Remove all but the `keep_states` newest states. Where the keys may not delete, and it is
        0, their marks are overwritten, so that none counts as complete."""
        if self.uses_slots():
            if keep_states == 0:
                self._withdraw([self.name(each.name, MARK) for each in self.whole()])
            return
        batches = self.outdated_files(keep_states, coming)
        try:
            for names in batches:
                self._again(lambda names=names: self._store.delete(names, self._deadline))
        except PermanentError as refused:
            self._report(
                msg(
                    "older states stay at {destination}: {text}",
                    destination=self._store.destination,
                    text=refused.problem.text,
                )
            )
            if keep_states == 0:
                self._withdraw([n for names in batches for n in names if n.endswith(f"/{MARK}")])

    def entry_name(self, state: RemoteState, entry: RemoteEntry) -> str:
        """The full name of a state's file."""
        return self.name(state.name, FILES + entry.name)

    def name(self, *parts: str) -> str:
        return "/".join((self._folder, *parts))

    def _files(self) -> dict[str, tuple[str, ...]]:
        """All files in the states' folders, by state, complete or not."""
        names = self._again(lambda: self._store.names(self._folder, self._deadline))
        found: dict[str, tuple[str, ...]] = {}
        for name in names:
            state, _, _ = name.removeprefix(f"{self._folder}/").partition("/")
            if STATE_NAME.fullmatch(state):
                found[state] = (*found.get(state, ()), name)
        return found

    def _marked(self, found: Mapping[str, Sequence[str]]) -> tuple[RemoteState, ...]:
        states: list[RemoteState] = []
        for name, files in found.items():
            inside = [each.removeprefix(self.name(name, "")) for each in files]
            if MARK in inside and (state := self._in_folder(name, inside)):
                states.append(state)
        return newest_first(states)

    def _in_folder(self, name: str, there: Sequence[str] | None) -> RemoteState | None:
        """The state in a folder, whose files are `there` (None: they could not be listed)."""
        mark = self.name(name, MARK)
        content = self._again(lambda: self._store.read(mark, self._deadline))
        return read_state(name, content, there)

    def _put(self, files: Sequence[HashedFile]) -> None:
        missing = self._again(lambda: self._store.missing(files, self._deadline))
        if missing:
            put_verified(self._store, missing, self._deadline, lambda n: None, self._on_retry)

    def _withdraw(self, marks: Sequence[str]) -> None:
        if marks:
            self._again(lambda: withdraw(self._store, marks, self._deadline))

    def _again(self, action: Callable[[], T]) -> T:
        return retrying(self._deadline, action, on_retry=self._on_retry)

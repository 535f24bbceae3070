"""What of a run lies at a destination while it trains, so that another machine can go on with it.

Checkpoints go where the delivery will put them, so that it need not send them again. Everything
else lies in `.tenner/<job>/`: small files that change (the ledger, the live page), and states.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TypeVar
from urllib.parse import quote

from tenner.delivery.deliver import put_verified, withdraw_manifest
from tenner.delivery.destination import Destination
from tenner.delivery.manifest import (
    DeliveredFile,
    RemoteEntry,
    SealedFile,
    hash_file,
    make_manifest,
    seal,
)
from tenner.delivery.parallel import in_parallel
from tenner.delivery.remote_state import (
    FILES,
    MARK,
    STATE_NAME,
    RemoteState,
    manifest_of_state,
    read_state,
    state_name,
    state_of,
    step_of,
)
from tenner.delivery.retry import Deadline, Passing, Refused, retrying
from tenner.delivery.store import Store, open_store
from tenner.errors import DeliveryError, Problem
from tenner.run_dir import sync_directory
from tenner.secrets import Secrets

DEFAULT_LIMIT_SECONDS = 900.0
ROOM = ".tenner"

T = TypeVar("T")
OnTrouble = Callable[[str], None]


class RemoteRun:
    """One run's room at one destination. Safe to call from several threads.

    On the Hub every call that sends or drops something is a commit, of which it allows a number
    each hour: there, send small files seldom.

    `job` tells runs apart that share a destination. Every call ends within `limit_seconds` (and a
    grace of two), even where the other side never answers, and raises DeliveryError with what
    kept it, clean of secrets. `on_trouble` is told what is tried again.
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
        self._room = f"{ROOM}/{_folder_name(job)}"
        self._secrets = secrets
        self._environ = environ
        self._limit_seconds = limit_seconds
        self._on_trouble = on_trouble
        self._store: Store | None = None
        self._lock = Lock()
        self._under_way: set[Deadline] = set()

    def put_checkpoint(
        self, path: Path, name: str = "", *, limit_seconds: float | None = None
    ) -> str:
        """Send a weights file, by default as `checkpoints/<its name>`, and verify it.

        Nothing is sent where the same content lies there. Gives the name at the destination.
        """
        asked = DeliveredFile(path=path, name=name or f"checkpoints/{path.name}")
        (file,) = make_manifest([asked]).files
        self._ask(lambda store, deadline: self._put(store, [file], deadline), limit_seconds)
        return file.name

    def put_state(
        self, folder: Path, step: int, *, limit_seconds: float | None = None
    ) -> RemoteState:
        """Send every file in `folder` as the state of the absolute `step`, and then its mark.

        A state that was sent in part goes on. The folder must not change meanwhile.
        """
        manifest = manifest_of_state(folder, self.job)
        name = state_name(step, manifest)
        with TemporaryDirectory(prefix="tenner-state-") as scratch:
            mark = _sealed(Path(scratch) / MARK, manifest.to_json(), self._name(name, MARK))
            files = [replace(file, name=self._name(name, file.name)) for file in manifest.files]

            def put(store: Store, deadline: Deadline) -> None:
                sets = [[*files, mark]] if store.whole_sets else [files, [mark]]
                for each in sets:
                    self._put(store, each, deadline)

            self._ask(put, limit_seconds)
        entries = [RemoteEntry(name=f.name, size=f.size, sha256=f.sha256) for f in manifest.files]
        return state_of(name, entries)

    def states(self, *, limit_seconds: float | None = None) -> tuple[RemoteState, ...]:
        """The complete states of this job, the newest (highest step) first."""

        def look(store: Store, deadline: Deadline) -> tuple[RemoteState, ...]:
            found = self._state_files(store, deadline)
            states = [self._read_state(store, each, found[each], deadline) for each in found]
            whole = [state for state in states if state]
            return tuple(sorted(whole, key=lambda each: (each.step, each.name), reverse=True))

        return self._ask(look, limit_seconds)

    def fetch_state(
        self, state: RemoteState, into: Path, *, limit_seconds: float | None = None
    ) -> None:
        """Bring a state's files to the folder `into`, which must not exist yet.

        It appears whole and verified by size and SHA-256, or not at all. What a cut call brought
        lies beside it and is used by the next one.
        """
        if into.exists():
            raise DeliveryError(f"{into} is there already", fix="name a new folder for the state")
        part = into.with_name(f".{into.name[:100]}.{state.name}.part")

        def fetch(store: Store, deadline: Deadline) -> None:
            for entry in state.files:
                name = self._name(state.name, FILES + entry.name)
                _fetch_verified(store, name, entry, part / entry.name, deadline)
            deadline.check()  # nothing appears after the caller was told that it did not come
            part.replace(into)
            sync_directory(into.parent)

        self._ask(fetch, limit_seconds)

    def fetch_file(
        self, entry: RemoteEntry, into: Path, *, limit_seconds: float | None = None
    ) -> None:
        """Bring one file of the destination, by its whole name there, to `into`.

        It appears whole and verified by size and SHA-256, or not at all.
        """
        part = into.with_name(f".{into.name[:200]}.part")

        def fetch(store: Store, deadline: Deadline) -> None:
            _fetch_verified(store, entry.name, entry, part, deadline)
            deadline.check()
            part.replace(into)
            sync_directory(into.parent)

        self._ask(fetch, limit_seconds)

    def drop_states(self, keep: int, *, limit_seconds: float | None = None) -> None:
        """Remove all but the `keep` newest complete states, and unfinished ones older than them.

        With `keep` = 0 every state goes.
        """
        if keep < 0:
            raise ValueError(f"keep = {keep}")
        whole = self.states(limit_seconds=limit_seconds)
        kept = {state.name for state in whole[:keep]}
        newest = whole[0].step if whole and keep else None

        def drop(store: Store, deadline: Deadline) -> None:
            found = self._state_files(store, deadline)
            gone = {
                state: names
                for state, names in found.items()
                if state not in kept and (newest is None or step_of(state) <= newest)
            }
            for each in self._in_order(gone, in_one=store.whole_sets):
                self._again(deadline, lambda each=each: store.delete(each, deadline))

        self._ask(drop, limit_seconds)

    def _in_order(
        self, states: Mapping[str, Sequence[str]], *, in_one: bool
    ) -> Sequence[Sequence[str]]:
        """The files of states to be removed, in turns: each one's mark before the rest."""
        if in_one:
            return [[name for names in states.values() for name in names]] if states else []
        turns: list[list[str]] = []
        for state, names in states.items():
            mark = self._name(state, MARK)
            turns += [[n for n in names if n == mark], [n for n in names if n != mark]]
        return [turn for turn in turns if turn]

    def put_file(self, name: str, path: Path, *, limit_seconds: float | None = None) -> None:
        """Send a small file of the run (the ledger, the live page) as it is now.

        It is copied first, so that it may be replaced meanwhile.
        """
        with TemporaryDirectory(prefix="tenner-file-") as scratch:
            copy = Path(scratch) / "copy"
            try:
                shutil.copyfile(path, copy)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                raise DeliveryError(f"cannot read {path}: {reason}") from error
            asked = DeliveredFile(path=copy, name=f"{self._room}/{name}")
            (file,) = make_manifest([asked]).files
            self._ask(lambda store, deadline: self._put(store, [file], deadline), limit_seconds)

    def get_file(self, name: str, *, limit_seconds: float | None = None) -> bytes | None:
        """The content that `put_file` sent last under this name, None where there is none."""
        whole = f"{self._room}/{name}"
        return self._ask(
            lambda store, deadline: self._again(deadline, lambda: store.read(whole, deadline)),
            limit_seconds,
        )

    def create_file(self, name: str, content: bytes, *, limit_seconds: float | None = None) -> bool:
        """Write a small file of the run where none of this name is; False where there is one."""
        whole = f"{self._room}/{name}"
        return self._ask(
            lambda store, deadline: self._again(
                deadline, lambda: store.create(whole, content, deadline)
            ),
            limit_seconds,
        )

    def names(self, under: str, *, limit_seconds: float | None = None) -> tuple[str, ...]:
        """The run's own files in the folder `under`, by their names in it."""
        start = f"{self._room}/{under}"
        found = self._ask(
            lambda store, deadline: self._again(deadline, lambda: store.names(start, deadline)),
            limit_seconds,
        )
        return tuple(name.removeprefix(f"{start}/") for name in found)

    def link(self, name: str) -> str:
        """Where a person opens the file that `put_file` sent, or an empty text."""
        return self._ask(lambda store, deadline: store.link(f"{self._room}/{name}"), None)

    def cancel(self) -> None:
        """End all calls that are under way now, as if their time were up."""
        with self._lock:
            for deadline in self._under_way:
                deadline.cancel()

    def _ask(self, action: Callable[[Store, Deadline], T], limit_seconds: float | None) -> T:
        """Do `action` within its limit; whatever kept it is a DeliveryError."""
        deadline = Deadline(self._limit_seconds if limit_seconds is None else limit_seconds)
        with self._lock:
            self._under_way.add(deadline)
        try:
            (ended,) = in_parallel(
                [lambda: action(self._opened(), deadline)],
                num_workers=1,
                deadline=deadline,
                name="tenner-remote-run",
            )
        finally:
            with self._lock:
                self._under_way.discard(deadline)
        match ended:
            case Refused():
                raise self._error(ended.problem.text, ended.problem.fix) from ended
            case Passing():
                fix = "it works again when the other side answers; look at its address and network"
                raise self._error(f"{self.destination}: {ended}", fix) from ended
            case OSError():
                fix = "look whether the disk of this machine is full or gone"
                raise self._error(f"{self.destination}: {ended}", fix) from ended
            case BaseException():
                raise ended
            case _:
                return ended

    def _error(self, text: str, fix: str) -> DeliveryError:
        return DeliveryError(self._secrets.redact(text), fix=self._secrets.redact(fix))

    def _opened(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = open_store(self.destination, secrets=self._secrets, env=self._environ)
            return self._store

    def _again(self, deadline: Deadline, action: Callable[[], T]) -> T:
        return retrying(deadline, action, on_retry=self._told)

    def _told(self, trouble: str) -> None:
        if self._on_trouble:
            self._on_trouble(self._secrets.redact(f"{self.destination}: {trouble}; trying again"))

    def _put(self, store: Store, files: Sequence[SealedFile], deadline: Deadline) -> None:
        missing = self._again(deadline, lambda: store.missing(files, deadline))
        if not missing:
            return
        # A set that is complete until now, of another run, would be called whole by its manifest.
        self._again(deadline, lambda: withdraw_manifest(store, missing, deadline))
        put_verified(store, missing, deadline, lambda num_bytes: None, self._told)

    def _name(self, *parts: str) -> str:
        return "/".join((self._room, "state", *parts))

    def _state_files(self, store: Store, deadline: Deadline) -> dict[str, tuple[str, ...]]:
        """All files in the states' folders, by state, complete or not."""
        start = f"{self._room}/state"
        names = self._again(deadline, lambda: store.names(start, deadline))
        found: dict[str, tuple[str, ...]] = {}
        for name in names:
            state, _, _ = name.removeprefix(f"{start}/").partition("/")
            if STATE_NAME.fullmatch(state):
                found[state] = (*found.get(state, ()), name)
        return found

    def _read_state(
        self, store: Store, state: str, names: Sequence[str], deadline: Deadline
    ) -> RemoteState | None:
        """The state, or None where it is not whole."""
        mark = self._name(state, MARK)
        if mark not in names:
            return None
        content = self._again(deadline, lambda: store.read(mark, deadline))
        start = self._name(state, "")
        return read_state(state, content, {each.removeprefix(start) for each in names})


def _fetch_verified(
    store: Store, name: str, entry: RemoteEntry, target: Path, deadline: Deadline
) -> None:
    """Bring one file, held to its size and hash. Raises Refused where it is another one."""
    wanted = (entry.size, entry.sha256)
    if target.is_file() and hash_file(target) == wanted:
        return  # an earlier call, cut later, brought it

    def once() -> None:
        store.fetch(name, target, deadline)
        if hash_file(target) != wanted:
            target.unlink()
            text = f"{store.destination}: {name} is damaged: it is not what was sent (size or hash)"
            raise Refused(Problem(text=text, fix="go on from an older state"), code="damaged")

    retrying(deadline, once)


def _sealed(path: Path, content: str, name: str) -> SealedFile:
    path.write_text(content, encoding="utf-8")
    return seal(DeliveredFile(path=path, name=name))


def _folder_name(job: str) -> str:
    """A folder's name that no other job has: signs that some store refuses become %XX."""
    name = "".join(sign if sign.isalnum() or sign in "-_." else quote(sign) for sign in job)
    name = name.replace("/", "%2F")
    if not name.strip("."):
        raise ValueError(f"job = {job!r} is no name")
    return name

"""The delivery: every file to every destination, verified, the manifest last.

Destinations are served in parallel; a failure of one does not stop the others. Files that are there
already (by size and content) are not sent again. A model card that a user has edited there is not
replaced. A run is delivered when every required destination has the complete set.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from tenner.core.checksums import (
    DeliveredFile,
    HashedFile,
    hashed_text,
    stop_hashing,
    wait_until_hashed,
)
from tenner.core.errors import DeliveryError, Problem
from tenner.core.events import Event
from tenner.core.messages import msg
from tenner.core.parallel import in_parallel
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.core.secrets import Secrets
from tenner.core.temporary_files import temporary_folder
from tenner.report.model_card import CARD_NAME, is_edited
from tenner.storage.destination import Destination
from tenner.storage.manifest import MANIFEST_NAME, Manifest, begin_manifest
from tenner.storage.opening import open_store
from tenner.storage.progress import Progress
from tenner.storage.sending import is_in_a_set, put_verified, withdraw
from tenner.storage.store import Store

DEFAULT_LIMIT_SECONDS = 1800.0
_LIBRARY_SECONDS = 60.0
"""For importing a client library: a second or two, ten times that on a busy machine."""
OnEvent = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class DeliveredTo:
    """The delivery to one destination: files in `put` were sent, those in `unchanged` were there
    already; both are verified. `left` are a user's edited files, which were not replaced."""

    destination: str
    put: tuple[str, ...]
    unchanged: tuple[str, ...]
    bytes_put: int
    seconds: float
    links: tuple[tuple[str, str], ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A verified delivery. `problems` are those of optional destinations."""

    at: tuple[DeliveredTo, ...]
    manifest: Manifest
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of `delivered.json`, without local paths."""
        return {
            "at": [asdict(each) | {"links": dict(each.links)} for each in self.at],
            "files": [
                {"name": each.name, "size": each.size, "sha256": each.sha256}
                for each in self.manifest.files
            ],
            "problems": [str(problem) for problem in self.problems],
        }


def deliver(
    files: Sequence[DeliveredFile],
    destinations: Sequence[Destination],
    *,
    secrets: Secrets,
    on_event: OnEvent | None = None,
    total_limit_seconds: float = DEFAULT_LIMIT_SECONDS,
    job: str = "",
    env: Mapping[str, str] | None = None,
    deadline: Deadline | None = None,
) -> Delivered:
    """Deliver `files` and their manifest to all destinations, and verify every one.

    `deadline` (for a caller that may cancel) replaces `total_limit_seconds`. Raises DeliveryError
    with the problems of every destination that failed; the local files are never touched.
    """
    deadline = deadline or Deadline(total_limit_seconds)
    surroundings = os.environ if env is None else env
    opening = [_Opening(each, secrets, surroundings) for each in destinations]
    manifest = begin_manifest(files, job=job)
    progress = Progress(manifest.files, len(destinations), secrets=secrets, on_event=on_event)
    with temporary_folder("manifest") as folder:

        def serve(number: int) -> DeliveredTo | Problem:
            try:
                store = opening[number].store(deadline)
                return deliver_to(store, manifest, Path(folder) / str(number), deadline, progress)
            except PermanentError as refused:
                return refused.problem

        ended = in_parallel(
            [partial(serve, number) for number in range(len(destinations))],
            num_workers=len(destinations),
            deadline=deadline,
            name="tenner-deliver",
        )
    results = [_answer(each, where) for each, where in zip(ended, destinations, strict=True)]
    try:
        delivered = _sum_up(destinations, results, manifest, secrets)
        wait_until_hashed(manifest.files)  # not yet where only optional destinations failed
    except DeliveryError:
        stop_hashing(manifest.files)
        raise
    return delivered


class _Opening:
    """A store that is opened on a thread, which imports its client library."""

    def __init__(self, destination: Destination, secrets: Secrets, env: Mapping[str, str]) -> None:
        self._opened: SimpleQueue[Store | BaseException] = SimpleQueue()

        def work() -> None:
            try:
                self._opened.put(open_store(destination, secrets=secrets, env=env))
            except BaseException as error:  # noqa: BLE001  (raised where the store is used)
                self._opened.put(error)

        Thread(target=work, name="tenner-open", daemon=True).start()

    def store(self, deadline: Deadline) -> Store:
        """Wait for the store; may be called once. Raises TransientError or PermanentError.

        The deadline is for the destination, so the time for the import is added to it.
        """
        start = time.monotonic()
        try:
            opened = self._opened.get(timeout=max(deadline.remaining(), _LIBRARY_SECONDS))
            deadline.extend(time.monotonic() - start)
        except Empty:
            raise TransientError(msg("its client library was not ready in time")) from None
        if isinstance(opened, BaseException):
            raise opened
        return opened


def deliver_to(
    store: Store, manifest: Manifest, scratch: Path, deadline: Deadline, progress: Progress
) -> DeliveredTo:
    """Deliver the files to one destination, and then their manifest.

    `scratch` is a temporary folder for this call. Raises TransientError or PermanentError.
    """
    start = time.monotonic()
    shown_name = str(store.destination)
    on_retry, on_bytes = progress.retry_reporter(shown_name), progress.counter(shown_name)
    deadline = deadline.reporting_to(on_retry)
    again = partial(retrying, deadline, on_retry=on_retry)
    left = again(lambda: edited_cards(store, manifest.files, deadline))
    for name in left:
        progress.left(shown_name, name)
    files = tuple(file for file in manifest.files if file.name not in left)
    put: list[HashedFile] = []
    unchanged: list[HashedFile] = []
    for batch in _batches(store, replace(manifest, files=files), scratch):
        missing = again(partial(store.missing, batch, deadline))
        if not store.whole_sets:
            again(partial(_withdraw_manifest, store, missing, deadline))
        there = [file for file in batch if file not in missing]
        progress.already_there(shown_name, sum(file.size for file in there))
        if missing:
            put_verified(store, missing, deadline, on_bytes, on_retry)
        put += missing
        unchanged += there
    shown = [*files] if store.destination.link_seconds or store.destination.kind != "s3" else []
    return DeliveredTo(
        destination=shown_name,
        put=tuple(file.name for file in put),
        unchanged=tuple(file.name for file in unchanged),
        bytes_put=sum(file.size for file in put),
        seconds=round(time.monotonic() - start, 3),
        links=tuple((file.name, store.link(file.name)) for file in shown),
        left=left,
    )


def _batches(store: Store, manifest: Manifest, scratch: Path) -> Iterator[Sequence[HashedFile]]:
    """Files that are sent together, the manifest last: it waits for the hash of every file."""
    if store.whole_sets:
        yield *manifest.files, _hashed_manifest(manifest, scratch)
        return
    yield manifest.files
    yield (_hashed_manifest(manifest, scratch),)


def edited_cards(store: Store, files: Sequence[HashedFile], deadline: Deadline) -> tuple[str, ...]:
    """The model card's name, where a user has edited the one at the destination."""
    if all(file.name != CARD_NAME for file in files):
        return ()
    try:
        content = store.read(CARD_NAME, deadline)
    except PermanentError:
        return ()  # keys that may not read; there may be none
    return (CARD_NAME,) if content and is_edited(content) else ()


def _withdraw_manifest(store: Store, missing: Sequence[HashedFile], deadline: Deadline) -> None:
    """Remove a manifest before files of its set are replaced."""
    if is_in_a_set(store, missing, deadline):
        withdraw(store, [MANIFEST_NAME], deadline)


def _hashed_manifest(manifest: Manifest, folder: Path) -> HashedFile:
    folder.mkdir()
    return hashed_text(folder / MANIFEST_NAME, manifest.to_json(), MANIFEST_NAME)


def _answer(
    ended: DeliveredTo | Problem | BaseException, destination: Destination
) -> DeliveredTo | Problem:
    """The result of one destination. Errors of our own code are raised."""
    if isinstance(ended, TransientError):
        return Problem(
            text=msg(
                "not delivered to {destination}: {ended}", destination=destination, ended=ended
            ),
            fix=msg("the files stay here; deliver again when the destination answers"),
        )
    if isinstance(ended, BaseException):
        raise ended
    return ended


def _sum_up(
    destinations: Sequence[Destination],
    results: Sequence[DeliveredTo | Problem],
    manifest: Manifest,
    secrets: Secrets,
) -> Delivered:
    """The results of all destinations as one. Raises DeliveryError for required ones."""
    required: list[Problem] = []
    optional: list[Problem] = []
    for destination, result in zip(destinations, results, strict=True):
        if isinstance(result, Problem):
            problem = Problem(text=secrets.redact(result.text), fix=secrets.redact(result.fix))
            (required if destination.required else optional).append(problem)
    at = tuple(result for result in results if isinstance(result, DeliveredTo))
    if required:
        texts = dict.fromkeys((*required, *optional))  # each once: a file is unreadable to all
        if at:
            names = ", ".join(each.destination for each in at)
            done = Problem(
                text=msg("delivered and verified at: {names}", names=names), level="note"
            )
            texts[done] = None
        raise DeliveryError(problems=tuple(texts))
    return Delivered(at=at, manifest=manifest, problems=tuple(optional))

"""Delivery to a model repo on the Hugging Face Hub, or a folder in one.

What is missing goes up in one commit, so that no reader ever sees half a set. Every file is
verified afterwards by the hash that the Hub itself took: SHA-256 for large files, git's own for
small ones. The uploads take the LFS way, which hashes on arrival.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

from tenner.core.checksums import HashedFile, changed_since
from tenner.core.errors import Problem
from tenner.core.files import sync_directory
from tenner.core.messages import Message, msg
from tenner.core.retry import Deadline, PermanentError, TransientError
from tenner.core.secrets import Secrets
from tenner.storage.destination import Destination
from tenner.storage.hub_client import TOKENS_PAGE, HubClient, call_hub, open_hub_client
from tenner.storage.permissions import ALL_PERMISSIONS, Permissions
from tenner.storage.store import OnBytes

_MOST_PATHS = 500
"""The Hub takes up to 1,000 paths in one request (huggingface_hub, issue 1503)."""
_NO_REPO = {"RepoNotFound", "RevisionNotFound"}


def open_hub(destination: Destination, *, secrets: Secrets, env: Mapping[str, str]) -> "HubStore":
    """Raises PermanentError where huggingface_hub is missing or no token is known."""
    client = open_hub_client(destination, secrets=secrets, env=env, to_write=True)
    return HubStore(destination, client)


class HubStore:
    """A model repo, or a folder in one."""

    whole_sets = True

    def __init__(self, destination: Destination, client: HubClient) -> None:
        self.destination = destination
        self._client = client
        self._ready = False

    def probe(self, deadline: Deadline) -> tuple[Problem, ...]:
        """Who the token is, that the repo is there (made private where it is not), and that a
        small large-file arrives. That file is in no commit: it leaves no trace in the repo."""
        who = self._call(deadline, self._client.api.whoami)
        if reason := _reads_only(who):
            problem = Problem(
                text=msg("{destination}: {reason}", destination=self.destination, reason=reason),
                fix=_write_fix(),
            )
            raise PermanentError(problem)
        try:
            repo = self._make_ready(deadline)
        except PermanentError as refused:
            raise _in_whose_name(refused, self.destination, who) from refused
        content = io.BytesIO(token_hex(16).encode())
        name = self.destination.name_in_root(f".tenner-check-{token_hex(4)}.safetensors")
        self._call(
            deadline,
            self._client.api.preupload_lfs_files,
            self.destination.root,
            additions=[_addition(name, content)],
            revision=self.destination.revision,
        )
        if self.destination.private and repo is not None and not repo.private:
            text = msg(
                "{destination} is a public repo: everyone can see what is delivered",
                destination=self.destination,
            )
            fix = msg(
                "make it private on its page, or use hf://{root}?public", root=self.destination.root
            )
            return (Problem(text=text, fix=fix, level="warning"),)
        return ()

    def permissions(self, deadline: Deadline) -> Permissions:
        return ALL_PERMISSIONS

    def missing(self, files: Sequence[HashedFile], deadline: Deadline) -> tuple[HashedFile, ...]:
        remote = self._entries([file.name for file in files], deadline)
        return tuple(file for file in files if not _is_same(file, remote.get(file.name)))

    def put(
        self,
        files: Sequence[HashedFile],
        deadline: Deadline,
        on_bytes: OnBytes,
        gone: Sequence[str] = (),
    ) -> None:
        """Send all files and remove `gone` in one commit. The library hashes each file first; a
        file whose hash is another one by then is refused."""
        self._make_ready(deadline)
        with ExitStack() as opened:
            readers: list[tuple[HashedFile, _Counted]] = []
            additions: list[Any] = []
            for file in files:
                reader = opened.enter_context(_Counted(file.path, on_bytes))
                addition = _addition(self.destination.name_in_root(file.name), reader)
                if addition.upload_info.sha256.hex() != file.sha256:
                    raise PermanentError(_changed(file))
                reader.begin()
                readers.append((file, reader))
                additions.append(addition)
            operations = [*additions, *self._deletions(gone, deadline)]
            self._commit(deadline, operations, _title("Add", [file.name for file in files]))
            for file, reader in readers:
                reader.reached(file.size)  # what was there under another name is not read

    def create(self, name: str, content: bytes, deadline: Deadline) -> bool:
        text = msg(
            "{destination}: a Hub repo cannot keep two machines from training the same run",
            destination=self.destination,
        )
        raise PermanentError(
            Problem(text=text, fix=msg("name an s3:// destination or a shared folder too"))
        )

    def read(self, name: str, deadline: Deadline) -> bytes | None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (
            build_hf_headers,  # pyright: ignore[reportUnknownVariableType]
            get_session,
            hf_raise_for_status,
        )

        def get() -> bytes:
            url = hf_hub_url(
                self.destination.root,
                self.destination.name_in_root(name),
                revision=self.destination.revision,
                endpoint=self._client.endpoint,
            )
            headers = build_hf_headers(token=self._client.token or False)
            answer = get_session().get(url, headers=headers)
            hf_raise_for_status(answer)
            return answer.content

        try:
            return self._call(deadline, get)
        except PermanentError as refused:
            if refused.code in {"EntryNotFound", *_NO_REPO}:
                return None
            raise

    def fetch(self, name: str, target: Path, deadline: Deadline) -> None:
        cache = target.with_name(f".{target.name[:100]}.hub")  # a cut one resumes from here
        found = self._call(
            deadline,
            self._client.api.hf_hub_download,
            self.destination.root,
            self.destination.name_in_root(name),
            revision=self.destination.revision,
            local_dir=cache,
        )
        Path(found).replace(target)
        _remove_tree(cache)
        sync_directory(target.parent)

    def names(self, under: str, deadline: Deadline) -> tuple[str, ...]:
        folder = self.destination.name_in_root(under).rstrip("/")

        def walk() -> list[str]:
            tree = self._client.api.list_repo_tree(
                self.destination.root,
                path_in_repo=folder or None,
                recursive=True,
                revision=self.destination.revision,
            )
            return [str(each.path) for each in tree if hasattr(each, "size")]

        try:
            found = self._call(deadline, walk)
        except PermanentError as refused:
            if refused.code in {"EntryNotFound", *_NO_REPO}:
                return ()
            raise
        root = self.destination.name_in_root("")
        return tuple(sorted(path.removeprefix(root) for path in found))

    def delete(self, names: Sequence[str], deadline: Deadline) -> None:
        if gone := self._deletions(names, deadline):
            self._commit(deadline, gone, _title("Remove", names))

    def _deletions(self, names: Sequence[str], deadline: Deadline) -> list[Any]:
        """Operations that delete those of `names` which exist: the Hub refuses a commit that
        deletes others."""
        from huggingface_hub import CommitOperationDelete

        there = self._entries(names, deadline) if names else {}
        return [
            CommitOperationDelete(self.destination.name_in_root(name), is_folder=False)
            for name in there
        ]

    def link(self, name: str) -> str:
        where = f"{self._client.endpoint}/{self.destination.root}"
        return f"{where}/blob/{self.destination.revision}/{self.destination.name_in_root(name)}"

    def _call(self, deadline: Deadline, action: Any, *given: Any, **more: Any) -> Any:
        return call_hub(self.destination, self._client, deadline, action, *given, **more)

    def _make_ready(self, deadline: Deadline) -> Any:
        """The repo as the Hub describes it; made where it is not there, and the branch too.

        None where this was done before.
        """
        if self._ready:
            return None
        where, api = self.destination, self._client.api
        try:
            repo = self._call(deadline, api.repo_info, where.root)
        except PermanentError as refused:
            if refused.code != "RepoNotFound":
                raise
            self._call(deadline, api.create_repo, where.root, private=where.private, exist_ok=True)
            repo = self._call(deadline, api.repo_info, where.root)
        if where.revision != "main":
            self._call(
                deadline, api.create_branch, where.root, branch=where.revision, exist_ok=True
            )
        self._ready = True
        return repo

    def _commit(self, deadline: Deadline, operations: Sequence[Any], title: str) -> None:
        self._call(
            deadline,
            self._client.api.create_commit,
            self.destination.root,
            operations=list(operations),
            commit_message=title,
            revision=self.destination.revision,
        )

    def _entries(self, names: Sequence[str], deadline: Deadline) -> dict[str, Any]:
        """The Hub's entries of those of these files that exist, by name."""
        paths = {self.destination.name_in_root(name): name for name in names}
        found: dict[str, Any] = {}
        requested = list(paths)
        for start in range(0, len(requested), _MOST_PATHS):
            try:
                answer = self._call(
                    deadline,
                    self._client.api.get_paths_info,
                    self.destination.root,
                    requested[start : start + _MOST_PATHS],
                    revision=self.destination.revision,
                )
            except PermanentError as refused:
                if refused.code in _NO_REPO:
                    return {}
                raise
            found |= {paths[each.path]: each for each in answer if each.path in paths}
        return found


class _Counted(io.BufferedReader):
    """A file that reports how far it was read for the first time, after `begin`."""

    def __init__(self, path: Path, on_bytes: OnBytes) -> None:
        super().__init__(io.FileIO(path))
        self._on_bytes = on_bytes
        self._furthest: int | None = None

    def begin(self) -> None:
        self._furthest = 0

    def reached(self, position: int) -> None:
        if self._furthest is not None and position > self._furthest:
            self._on_bytes(position - self._furthest)
            self._furthest = position

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size)
        self.reached(self.tell())
        return block


def _changed(file: HashedFile) -> Problem:
    changed = changed_since(file)
    return changed or Problem(text=msg("{path} is read as another file each time", path=file.path))


def _addition(name: str, content: io.BufferedIOBase) -> Any:
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(path_in_repo=name, path_or_fileobj=cast(Any, content))


def _is_same(file: HashedFile, entry: Any) -> bool:
    if entry is None or not hasattr(entry, "size") or entry.size != file.size:
        return False
    if entry.lfs:
        return entry.lfs.sha256 == file.sha256
    return entry.blob_id == _git_hash(file.path)


def _git_hash(path: Path) -> str:
    """The name that git gives a file's content. Raises TransientError where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TransientError(
            msg("{path}: {strerror}", path=path, strerror=error.strerror)
        ) from error
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _reads_only(who: Mapping[str, Any]) -> str:
    """Why this token cannot write anything, where the Hub's answer shows it; else an empty text."""
    token = who.get("auth", {}).get("accessToken", {})
    return (
        msg("the token of {get} may only read", get=who.get("name"))
        if token.get("role") == "read"
        else ""
    )


def _write_fix() -> Message:
    return msg(
        "make a token with write access at {tokens_page} and set HF_TOKEN", tokens_page=TOKENS_PAGE
    )


def _in_whose_name(
    refused: PermanentError, destination: Destination, who: Mapping[str, Any]
) -> PermanentError:
    """`refused`, with the user and organisations that this token may write to."""
    owner, _, repo = destination.root.partition("/")
    mine = [str(who.get("name")), *(str(org["name"]) for org in who.get("orgs", ()))]
    if owner in mine or refused.code not in {"401", "403", "404", "RepoNotFound"}:
        return refused
    text = msg("{text}; this token is of {mine}", text=refused.problem.text, mine=mine[0])
    fixes = " or ".join(f"hf://{name}/{repo}" for name in mine[:3])
    return PermanentError(
        Problem(text=text, fix=msg("use {fixes}, or a token of {owner}", fixes=fixes, owner=owner)),
        code=refused.code,
    )


def _title(verb: str, names: Sequence[str]) -> str:
    more = msg(" and {n} more", n=len(names) - 1) if len(names) > 1 else ""
    return f"{verb} {names[0]}{more}"


def _remove_tree(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)

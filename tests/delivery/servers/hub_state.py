"""What a Hub keeps: accounts, repos with their commits, and large files by their SHA-256."""

import hashlib
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Literal

Role = Literal["read", "write"]
LARGE = ("*.safetensors", "*.bin", "*.pt", "*.ckpt", "*.zip", "*.png", "*.gz", "*.tar", "*.zst")
"""What `.gitattributes` of a new repo sends to large-file storage (and images, by the Hub)."""
REGULAR_LIMIT = 10 << 20


class Refusal(Exception):
    """An answer with an error status, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Account:
    name: str
    role: Role = "write"
    orgs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blob:
    """A file in a tree: its content, or only the hash of a large file."""

    size: int
    content: bytes | None = None
    sha256: str = ""

    @property
    def git_oid(self) -> str:
        body = self.content if self.content is not None else self.pointer
        return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()

    @property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
        return f"{text}size {self.size}\n".encode()


Tree = dict[str, Blob]


@dataclass
class Commit:
    sha: str
    title: str
    tree: Tree
    changed: tuple[str, ...] = ()


@dataclass
class Repo:
    kind: str
    id: str
    private: bool
    gated: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def head(self, revision: str) -> Commit:
        if revision in self.branches:
            return self.branches[revision][-1]
        for commits in self.branches.values():
            for commit in commits:
                if commit.sha == revision:
                    return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass
class HubState:
    """All of a Hub. `tokens` maps a token to its account."""

    tokens: dict[str, Account] = field(default_factory=dict)
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    part_bytes: int = 0
    """Large files are requested in parts of this size; 0 for whole ones."""
    storage_limit: int | None = None
    storage: str = ""
    """The address of large files in its answers; empty for this server under its other name."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def account(self, authorization: str) -> Account | None:
        if not authorization:
            return None
        account = self.tokens.get(authorization.removeprefix("Bearer ").strip())
        if account is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return account

    def make_repo(self, kind: str, repo_id: str, *, private: bool = False) -> Repo:
        """A new repo, with the first commit that the Hub makes itself."""
        first = b"".join(f"{each} filter=lfs diff=lfs merge=lfs -text\n".encode() for each in LARGE)
        tree = {".gitattributes": Blob(size=len(first), content=first)}
        repo = Repo(kind=kind, id=repo_id, private=private)
        self.repos[kind, repo_id] = repo
        repo.branches["main"] = [Commit(self._sha(repo, tree), "initial commit", tree)]
        return repo

    def add_files(self, repo: Repo, files: dict[str, bytes], branch: str = "main") -> Commit:
        """Commit files directly, as a test prepares the repo."""
        changes: Tree = {}
        for path, content in files.items():
            if self.is_large(path, len(content)):
                digest = hashlib.sha256(content).hexdigest()
                self.large[digest] = content
                changes[path] = Blob(size=len(content), sha256=digest)
            else:
                changes[path] = Blob(size=len(content), content=content)
        return self.commit(repo, branch, "prepared", changes, ())

    def commit(
        self, repo: Repo, branch: str, title: str, changes: Tree, gone: tuple[str, ...]
    ) -> Commit:
        tree = {**repo.head(branch).tree, **changes}
        for path in gone:
            if path not in tree:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            del tree[path]
        commit = Commit(self._sha(repo, tree), title, tree, (*changes, *gone))
        repo.branches[branch].append(commit)
        return commit

    def repo(self, kind: str, repo_id: str, account: Account | None, *, write: bool) -> Repo:
        """The repo, where this account may see it (and write to it). A private one that it may
        not see looks as if it were not there."""
        repo = self.repos.get((kind, repo_id))
        owns = account is not None and repo_id.split("/")[0] in (account.name, *account.orgs)
        if repo is None or (repo.private and not owns):
            status = 404 if account else 401
            raise Refusal(status, "Repository not found", "RepoNotFound")
        if repo.gated and not owns:
            raise Refusal(403, f"Access to model {repo_id} is restricted", "GatedRepo")
        if write:
            self.check_writes(account, repo_id)
        return repo

    def check_writes(self, account: Account | None, repo_id: str) -> None:
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        owner = repo_id.split("/")[0]
        if account.role != "write" or owner not in (account.name, *account.orgs):
            raise Refusal(
                403,
                "Forbidden: you must use a write token to upload to a repository."
                if account.role != "write"
                else f'You don\'t have the rights to create a model under the namespace "{owner}"',
            )

    def keep_large(self, digest: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != digest:
            raise Refusal(400, "the content does not match its oid")
        self.large[digest] = content

    def is_large(self, path: str, size: int) -> bool:
        name = path.rpartition("/")[2]
        return size > REGULAR_LIMIT or any(fnmatch(name, pattern) for pattern in LARGE)

    def _sha(self, repo: Repo, tree: Tree) -> str:
        count = sum(len(commits) for commits in repo.branches.values())
        named = "".join(f"{path} {tree[path].git_oid}\n" for path in sorted(tree))
        return hashlib.sha1(f"{repo.kind} {repo.id} {count}\n{named}".encode()).hexdigest()

"""A Hub on loopback: the calls that huggingface_hub's own client makes, answered as the Hub does.

whoami, create, info, preupload, LFS batch, upload (whole and in parts) and verify, commit,
paths-info, tree, branch, validate-yaml, and resolve with its redirect to large-file storage.
"""

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

from .hub_state import Account, Blob, HubState, Refusal, Repo

_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass
class Hub:
    port: int
    state: HubState

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def hub_server() -> Iterator[Hub]:
    state = HubState()

    class Handler(_Handler):
        hub = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Hub(server.server_address[1], state)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubState

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        try:
            with self.hub.lock:
                self._route(parts.path)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self._json({"error": refusal.message}, refusal.status, headers)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

    def _route(self, path: str) -> None:
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                answer(self, *(unquote(each or "") for each in match.groups()))
                return
        raise Refusal(404, f"no such call: {self.command} {path}")

    @property
    def account(self) -> Account | None:
        return self.hub.account(self.headers.get("Authorization", ""))

    def _repo(self, kinds: str, repo_id: str, *, write: bool = False) -> Repo:
        kind = _KINDS[kinds.rstrip("/") or "models"]
        return self.hub.repo(kind, repo_id, self.account, write=write)

    def _whoami(self) -> None:
        account = self.account
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"displayName": "test", "role": account.role}
        orgs = [{"name": name, "type": "org"} for name in account.orgs]
        auth = {"type": "access_token", "accessToken": token}
        self._json({"type": "user", "name": account.name, "orgs": orgs, "auth": auth})

    def _create(self) -> None:
        requested = json.loads(self.body)
        account = self.account
        owner = requested.get("organization") or (account.name if account else "")
        repo_id, kind = f"{owner}/{requested['name']}", requested.get("type") or "model"
        self.hub.check_writes(account, repo_id)
        if (kind, repo_id) in self.hub.repos:
            url = f"{self._root}/{repo_id}"
            self._json({"error": "You already created this model repo", "url": url}, 409)
            return
        private = requested.get("visibility") == "private" or bool(requested.get("private"))
        self.hub.make_repo(kind, repo_id, private=private)
        self._json({"url": f"{self._root}/{repo_id}", "name": repo_id})

    def _info(self, kinds: str, repo_id: str, revision: str) -> None:
        repo = self._repo(kinds, repo_id)
        commit = repo.head(revision or "main")
        answer: dict[str, Any] = {
            "id": repo.id,
            "modelId": repo.id,
            "sha": commit.sha,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(commit.tree)],
        }
        self._json(answer)

    def _preupload(self, kinds: str, repo_id: str, revision: str) -> None:
        tree = self._repo(kinds, repo_id, write=True).head(revision).tree
        files = []
        for each in json.loads(self.body)["files"]:
            large = self.hub.is_large(each["path"], each["size"])
            answer = {"path": each["path"], "shouldIgnore": False}
            answer["uploadMode"] = "lfs" if large else "regular"
            if blob := tree.get(each["path"]):
                answer["oid"] = blob.sha256 or blob.git_oid
            files.append(answer)
        self._json({"files": files, "commitOid": self._repo(kinds, repo_id).head(revision).sha})

    def _batch(self, kinds: str, repo_id: str) -> None:
        self._repo(kinds, repo_id, write=True)
        objects = []
        for each in json.loads(self.body)["objects"]:
            oid, size = each["oid"], each["size"]
            limit = self.hub.storage_limit
            if limit is not None and sum(map(len, self.hub.large.values())) + size > limit:
                raise Refusal(403, "Private repository storage limit reached, please upgrade")
            objects.append({"oid": oid, "size": size, **self._actions(oid, size)})
        self._json({"transfer": "basic", "objects": objects})

    def _actions(self, oid: str, size: int) -> dict[str, Any]:
        if oid in self.hub.large:
            return {}
        href, each = f"{self._storage}/large/{oid}", self.hub.part_bytes
        verify = {"href": f"{self._root}/verify/{oid}"}
        if not each or size <= each:
            return {"actions": {"upload": {"href": href}, "verify": verify}}
        header = {"chunk_size": str(each)}
        for number in range(1, -(-size // each) + 1):
            header[str(number)] = f"{href}/{number}"
        complete = f"{self._root}/large/{oid}/complete"
        return {"actions": {"upload": {"href": complete, "header": header}}}

    def _put_large(self, oid: str) -> None:
        self._refuse_token()
        self.hub.keep_large(oid, self.body)
        self._answer(200, b"")

    def _put_part(self, oid: str, number: str) -> None:
        self._refuse_token()
        self.hub.parts.setdefault(oid, {})[int(number)] = self.body
        self._answer(200, b"", {"ETag": f'"{oid[:8]}-{number}"'})

    def _complete(self, oid: str) -> None:
        parts = self.hub.parts.pop(oid, {})
        reported = [each["partNumber"] for each in json.loads(self.body)["parts"]]
        self.hub.keep_large(oid, b"".join(parts[number] for number in reported))
        self._json({"success": True})

    def _verify(self, oid: str) -> None:
        if oid not in self.hub.large:
            raise Refusal(404, "not uploaded")
        self._json({})

    def _commit(self, kinds: str, repo_id: str, revision: str) -> None:
        repo = self._repo(kinds, repo_id, write=True)
        title, changes, gone = "", {}, []
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    title = value["summary"]
                    parent = value.get("parentCommit")
                    if parent and parent != repo.head(revision).sha:
                        raise Refusal(412, "A commit has happened since. Please refresh.")
                case "file":
                    content = base64.b64decode(value["content"])
                    changes[value["path"]] = Blob(size=len(content), content=content)
                case "lfsFile":
                    if value["oid"] not in self.hub.large:
                        raise Refusal(400, f"LFS object {value['oid']} was not uploaded")
                    size = len(self.hub.large[value["oid"]])
                    changes[value["path"]] = Blob(size=size, sha256=value["oid"])
                case "deletedFile":
                    gone.append(value["path"])
                case "deletedFolder":
                    start = value["path"].rstrip("/") + "/"
                    tree = repo.head(revision).tree
                    gone += [path for path in tree if path.startswith(start)]
        commit = self.hub.commit(repo, revision, title, changes, tuple(gone))
        url = f"{self._root}/{repo_id}/commit/{commit.sha}"
        self._json({"success": True, "commitOid": commit.sha, "commitUrl": url})

    def _paths_info(self, kinds: str, repo_id: str, revision: str) -> None:
        tree = self._repo(kinds, repo_id).head(revision).tree
        if "json" in self.headers.get("Content-Type", ""):
            requested = json.loads(self.body)["paths"]
        else:
            requested = parse_qs(self.body.decode())["paths"]
        self._json([_entry(path, tree[path]) for path in requested if path in tree])

    def _tree(self, kinds: str, repo_id: str, revision: str, under: str) -> None:
        tree = self._repo(kinds, repo_id).head(revision).tree
        start = f"{under}/" if under else ""
        inside = [path for path in sorted(tree) if path.startswith(start)]
        if under and not inside:
            raise Refusal(404, f"{under} does not exist on {revision}", "EntryNotFound")
        deep = self.query.get("recursive", "").lower() in {"true", "1"}
        found: dict[str, dict[str, Any]] = {}
        for path in inside:
            folders = path.removeprefix(start).split("/")[:-1]
            for depth in range(len(folders) if deep else min(1, len(folders))):
                name = start + "/".join(folders[: depth + 1])
                found[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
            if deep or not folders:
                found[path] = _entry(path, tree[path])
        names = sorted(found)
        first = int(self.query.get("cursor", 0))
        page, rest = names[first : first + 1000], names[first + 1000 :]
        link = f"<{self._root}{self.path.partition('?')[0]}?recursive={deep}&cursor={first + 1000}>"
        headers = {"Link": f'{link}; rel="next"'} if rest else {}
        self._json([found[name] for name in page], headers=headers)

    def _branch(self, kinds: str, repo_id: str, branch: str) -> None:
        repo = self._repo(kinds, repo_id, write=True)
        if branch in repo.branches:
            raise Refusal(409, "Reference already exists")
        repo.branches[branch] = [repo.head("main")]
        self._json({"ref": branch})

    def _validate(self) -> None:
        content = json.loads(self.body)["content"]
        front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            card = yaml.safe_load(front[1]) if front else None
        except yaml.YAMLError as error:
            self._json({"errors": [{"message": str(error)}]}, 400)
            return
        missing = {"message": "empty or missing yaml metadata in repo card"}
        self._json({"errors": [], "warnings": [] if card else [missing]})

    def _resolve(self, kinds: str, repo_id: str, revision: str, path: str) -> None:
        commit = self._repo(kinds, repo_id).head(revision)
        blob = commit.tree.get(path)
        headers = {"X-Repo-Commit": commit.sha}
        if blob is None:
            more = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._json({"error": "Entry not found"}, 404, headers | more)
            return
        if blob.content is not None:
            self._send_range(blob.content, headers | {"ETag": f'"{blob.git_oid}"'})
            return
        headers |= {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.sha256}"'}
        headers["Location"] = f"{self._storage}/large/{blob.sha256}?name={quote(path)}"
        self._answer(302, b"", headers)

    def _get_large(self, oid: str) -> None:
        self._refuse_token()
        if oid not in self.hub.large:
            raise Refusal(404, "no such object")
        self._send_range(self.hub.large[oid], {"ETag": f'"{oid}"'})

    @property
    def _root(self) -> str:
        """This Hub as the client sees it: through a proxy, the proxy."""
        return f"http://{self.headers['Host']}"

    @property
    def _storage(self) -> str:
        """Where large files lie: another host, which must not be given the token."""
        return self.hub.storage or self._root.replace("//127.0.0.1", "//localhost")

    def _refuse_token(self) -> None:
        if self.headers.get("Authorization"):
            raise Refusal(400, "Only one auth mechanism allowed")

    def _send_range(self, content: bytes, headers: dict[str, str]) -> None:
        expected = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        unchanged = self.headers.get("If-Range", headers.get("ETag")) == headers.get("ETag")
        headers = headers | {"Accept-Ranges": "bytes"}
        if not expected or not unchanged:
            self._answer(200, content, headers)
            return
        first, last = int(expected[1]), int(expected[2] or len(content) - 1)
        if first >= len(content):
            self._answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], headers)

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None):
        more = {"Content-Type": "application/json", **(headers or {})}
        self._answer(status, json.dumps(value).encode(), more)

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_oid}
    if blob.content is None:
        pointer = len(blob.pointer)
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": pointer}
    return entry


_API = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
_PLAIN = r"/((?:datasets|spaces)/)?([^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler._whoami),
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._validate),
    ("GET", _API + r"(?:/revision/([^/]+))?", _Handler._info),
    ("POST", _API + r"/preupload/([^/]+)", _Handler._preupload),
    ("POST", _API + r"/commit/([^/]+)", _Handler._commit),
    ("POST", _API + r"/paths-info/([^/]+)", _Handler._paths_info),
    ("GET", _API + r"/tree/([^/]+)(?:/(.+))?", _Handler._tree),
    ("POST", _API + r"/branch/([^/]+)", _Handler._branch),
    ("POST", _PLAIN + r"\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/large/([0-9a-f]{64})", _Handler._put_large),
    ("PUT", r"/large/([0-9a-f]{64})/(\d+)", _Handler._put_part),
    ("POST", r"/large/([0-9a-f]{64})/complete", _Handler._complete),
    ("POST", r"/verify/([0-9a-f]{64})", _Handler._verify),
    ("GET HEAD", r"/large/([0-9a-f]{64})", _Handler._get_large),
    ("GET HEAD", _PLAIN + r"/resolve/([^/]+)/(.+)", _Handler._resolve),
]

"""A dataset on the Hugging Face Hub: `hf://datasets/user/name`, or one revision of it, `…@tag`.

Its listing is requested first: how much it is, and which commit. Every file then comes from that
commit, so that a push in between cannot mix two. Without the network, what is here is taken.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from tenner.core.errors import DatasetError
from tenner.core.messages import msg
from tenner.core.retry import PermanentError
from tenner.core.secrets import secrets_from
from tenner.dataset.request import DatasetRequest
from tenner.storage.http import OnBytes, refuse_size
from tenner.storage.hub_client import guard_redirects

NUM_CONNECTIONS = 8
_SOURCE = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w./-]+))?/?", re.ASCII)
NOT_WANTED = frozenset({".gitattributes", "README.md"})


def fetch_from_hub(
    source: str, request: DatasetRequest, cache: Path, on_bytes: OnBytes | None
) -> Path:
    """The folder of the dataset's files. Raises DatasetError."""
    named = _SOURCE.fullmatch(source)
    if not named:
        raise DatasetError(
            msg("{source} names no dataset", source=source),
            fix=msg("write hf://datasets/user/name, or …/name@revision"),
        )
    try:
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise DatasetError(
            msg("a dataset on Hugging Face needs one more package"),
            fix=msg("pip install 'tenner[hub]'"),
        ) from None
    hub = _Hub(named[1], named[2], cache / "hub", os.environ)
    try:
        return hub.fetch(request.max_bytes, on_bytes)
    except PermanentError as refused:
        raise DatasetError(problems=[refused.problem]) from refused
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise DatasetError(
            msg("{source} cannot be fetched: {reason}", source=source, reason=reason),
            fix=msg("check the name, and HF_TOKEN if the dataset is private or gated"),
        ) from None
    except (*transport_errors(), OSError, ValueError) as error:
        raise DatasetError(
            msg("{source} cannot be fetched: {error}", source=source, error=error),
            fix=msg("check the network; starting again resumes the download"),
        ) from None


def transport_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises where the server cannot be reached: its versions use requests
    (whose errors are OSErrors), httpx or httpx2."""
    found: list[type[Exception]] = [OSError]
    for name in ("httpx", "httpx2"):
        if name in sys.modules:
            found.append(sys.modules[name].HTTPError)  # noqa: PERF401 two names
    return tuple(found)


class _Hub:
    """One dataset repo, by the Hub's own client, which caches files by their content."""

    def __init__(
        self, repo: str, revision: str | None, cache: Path, environ: Mapping[str, str]
    ) -> None:
        from huggingface_hub import HfApi

        self.repo = repo
        self.revision = revision
        self.cache = cache
        token = secrets_from(environ)[0].hf_token
        self._api: Any = HfApi(endpoint=environ.get("HF_ENDPOINT") or None, token=token or False)
        guard_redirects(str(self._api.endpoint))

    def fetch(self, max_bytes: int, on_bytes: OnBytes | None) -> Path:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            info = self._api.dataset_info(self.repo, revision=self.revision, timeout=30)
            tree = self._api.list_repo_tree(
                self.repo, recursive=True, revision=info.sha, repo_type="dataset"
            )
            sizes = dict(_sizes(tree))
        except HfHubHTTPError:
            raise
        except transport_errors():
            return self._kept()
        total = sum(sizes.values())
        refuse_size(total, max_bytes)
        if not sizes:
            raise ValueError("it holds no files")
        return self._download(str(info.sha), sizes, total, on_bytes)

    def _kept(self) -> Path:
        """The newest commit that is whole here. Raises OSError where there is none."""
        found = self._api.snapshot_download(
            self.repo,
            repo_type="dataset",
            revision=self.revision,
            cache_dir=self.cache,
            local_files_only=True,
        )
        return Path(str(found))

    def _download(
        self, commit: str, sizes: Mapping[str, int], total: int, on_bytes: OnBytes | None
    ) -> Path:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()

        def fetch(name: str) -> tuple[str, int]:
            guard_redirects(str(self._api.endpoint))
            path = self._api.hf_hub_download(
                self.repo, name, repo_type="dataset", revision=commit, cache_dir=self.cache
            )
            return str(path), sizes[name]

        done = 0
        folder = Path()
        with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
            for name, (path, num_bytes) in zip(sizes, pool.map(fetch, sizes), strict=True):
                folder = Path(path.removesuffix(name))
                done += num_bytes
                if on_bytes:
                    on_bytes(done, total)
        self._note_revision(folder, commit)
        return folder

    def _note_revision(self, folder: Path, commit: str) -> None:
        """Let the branch point to the commit, as the Hub's client does: it is found offline."""
        refs = folder.parent.parent / "refs"
        target = refs / (self.revision or "main")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(commit, encoding="ascii")


def _sizes(tree: object) -> Iterable[tuple[str, int]]:
    """Path and size in bytes of every file in a repo's tree; folders have no size."""
    for each in cast("Iterable[Any]", tree):
        if hasattr(each, "size") and each.path not in NOT_WANTED:
            yield str(each.path), int(each.size)

"""The folder of a batch, as it is served: its summary, and the pages of its jobs."""

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tenner.core.run_dir import RunDir

RECORDS, SUMMARY = "batch.json", "batch.html"
_JOB_LINK = re.compile(rb'href="[^"]*?([^"/]+)/report\.html"')


def is_batch(folder: Path) -> bool:
    """Whether `folder` is one with the summary of `tenner batch`."""
    return (folder / RECORDS).is_file()


def job_dirs(folder: Path) -> dict[str, RunDir]:
    """The runs of the batch in `folder`, by name; those beside it where it has been moved."""
    try:
        found: dict[str, Any] = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
        runs = [Path(each["run"]) for each in found["jobs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    beside = [folder.absolute().parent / run.name for run in runs]
    return {
        run.name: RunDir(moved if moved.is_dir() else run)
        for run, moved in zip(runs, beside, strict=True)
    }


def with_token(page: bytes, token: str) -> bytes:
    """The summary with links to its jobs' pages as they are served, which need the token too."""

    def link(found: re.Match[bytes]) -> bytes:
        name = quote(html.unescape(found[1].decode()))
        return f'href="{name}/report.html?token={quote(token)}"'.encode()

    return _JOB_LINK.sub(link, page)

"""Fetch a base model of `models.toml`, for the image's build, and hold it to its SHA-256.

    python fetch_model.py NAME MODELS_TOML FOLDER [HOST]

What is not the file named by the hash never gets its final name. Uses huggingface_hub alone, as
`docker/locks/fetch.txt` installs it.
"""

import hashlib
import shutil
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

HOST = "https://huggingface.co"
TRIES = 8
PAUSE_SECONDS = 5.0


def fetch(
    name: str, facts: Mapping[str, Any], folder: Path, *, host: str, pause: float = PAUSE_SECONDS
) -> Path:
    """The model's file at `folder/name.safetensors`. Raises SystemExit where it cannot be had."""
    what = f"{facts['file']} of {facts['id']} at {host}"
    cache = folder / f".{name}.cache"
    for attempt in range(1, TRIES + 1):
        try:
            found = hf_hub_download(
                facts["id"],
                facts["file"],
                revision=facts["revision"],
                endpoint=host,
                cache_dir=cache,
                token=False,
            )
            break
        except (EntryNotFoundError, RepositoryNotFoundError) as error:
            if isinstance(error, HfHubHTTPError):
                sys.exit(f"{what}: {error}")
            print(f"{what}: {error.__cause__ or error}; try {attempt} of {TRIES}", file=sys.stderr)
        except OSError as error:  # timeouts and cut connections
            print(f"{what}: {error}; try {attempt} of {TRIES}", file=sys.stderr)
        time.sleep(pause * attempt)
    else:
        sys.exit(f"{what}: not whole after {TRIES} tries")
    content = Path(found).resolve()
    sha256 = _sha256(content)
    if sha256 != facts["sha256"]:
        shutil.rmtree(cache)
        sys.exit(f"{what}: SHA-256 is {sha256}, not {facts['sha256']}")
    whole = content.replace(folder / f"{name}{Path(facts['file']).suffix}")
    shutil.rmtree(cache)
    return whole


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(name: str, models: str, folder: str, host: str = HOST) -> None:
    """Fetch one model and write what it is, with its licence, beside it."""
    facts = tomllib.loads(Path(models).read_text(encoding="utf-8"))[name]
    path = fetch(name, facts, Path(folder), host=host)
    about = f"{facts['id']} at {facts['revision']}\nlicence: {facts['licence']}\n"
    path.with_suffix(".txt").write_text(about + f"SHA-256: {facts['sha256']}\n", encoding="utf-8")
    print(f"{path}: {facts['num_bytes'] / 1e9:.2f} GB, SHA-256 as expected")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Fetch a base model of `models.toml`, for the image's build: in parts, whole, checked by SHA-256.

    python fetch_model.py NAME MODELS_TOML FOLDER [HOST]

A download that was cut goes on where it was; what is not the file named by the hash never gets
its final name. Uses the standard library alone, as it runs in the bare base image.
"""

import hashlib
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOST = "https://huggingface.co"
CHUNK_BYTES = 8 * 1024 * 1024
TRIES = 8
PAUSE_SECONDS = 5.0


def fetch(
    name: str, facts: Mapping[str, Any], folder: Path, *, host: str, pause: float = PAUSE_SECONDS
) -> Path:
    """The model's file at `folder/name.safetensors`. Raises SystemExit where it cannot be had."""
    url = f"{host}/{facts['id']}/resolve/{facts['revision']}/{facts['file']}"
    whole = folder / f"{name}{Path(facts['file']).suffix}"
    part = folder / f"{whole.name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        try:
            _append(url, part, facts["num_bytes"])
        except OSError as error:  # URLError, timeouts and cut connections are all OSErrors
            if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404):
                sys.exit(f"{url}: {error}")
            print(f"{url}: {error}; try {attempt} of {TRIES}", file=sys.stderr)
            time.sleep(pause * attempt)
        if part.is_file() and part.stat().st_size >= facts["num_bytes"]:
            break
    else:
        sys.exit(f"{url}: not whole after {TRIES} tries")
    found = _sha256(part)
    if found != facts["sha256"]:
        part.unlink()
        sys.exit(f"{url}: SHA-256 is {found}, wanted {facts['sha256']}")
    return part.replace(whole)


def _append(url: str, part: Path, num_bytes: int) -> None:
    have = part.stat().st_size if part.is_file() else 0
    if have >= num_bytes:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        mode = "ab" if answer.status == 206 else "wb"  # 200: the server sends it from the start
        with part.open(mode) as file:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(name: str, models: str, folder: str, host: str = HOST) -> None:
    """Fetch one model and write what it is, with its licence, beside it."""
    facts = tomllib.loads(Path(models).read_text(encoding="utf-8"))[name]
    path = fetch(name, facts, Path(folder), host=host)
    about = f"{facts['id']} at {facts['revision']}\nlicence: {facts['licence']}\n"
    path.with_suffix(".txt").write_text(about + f"SHA-256: {facts['sha256']}\n", encoding="utf-8")
    print(f"{path}: {facts['num_bytes'] / 1e9:.2f} GB, SHA-256 as wanted")


if __name__ == "__main__":
    main(*sys.argv[1:])

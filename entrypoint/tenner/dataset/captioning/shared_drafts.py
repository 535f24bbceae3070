"""What a model wrote of pictures, by their content, for every run on this machine.

So jobs over the same pictures train on the same captions, and the model runs once for all of them.
The texts are those of the model, before a trigger is put in front and words are left out.
"""

import contextlib
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from tenner.core.checksums import hash_file
from tenner.core.files import write_atomically


class SharedDrafts:
    """The texts of one model in `folder`. `made_by` is everything that decides its words."""

    def __init__(self, folder: Path, made_by: Mapping[str, object]) -> None:
        name = sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
        self._folder = folder / name
        self._digests: dict[Path, str] = {}

    def find(self, image: Path) -> str | None:
        """The text of a picture with the same content; None where there is none."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._path_of(image).read_text(encoding="utf-8")
        return None

    def add(self, image: Path, text: str) -> None:
        """Store the text of a picture. Where the disk refuses, the next run drafts it anew."""
        with contextlib.suppress(OSError):
            path = self._path_of(image)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())

    def _path_of(self, image: Path) -> Path:
        if image not in self._digests:
            self._digests[image] = hash_file(image)[1]
        return self._folder / f"{self._digests[image]}.txt"

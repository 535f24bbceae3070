"""Files written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from tenner.core.temporary_files import part_of


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` so that `path` holds the old file or the new one, never a part.

    The folder is made where it is missing. Raises OSError. What is no valid text in a file name
    (bytes that are not UTF-8) is written as an escape, which JSON reads back as it was.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_of(path)
    try:
        with temporary.open("xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut, where the file system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open a directory
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse fsync on a directory
    finally:
        os.close(handle)

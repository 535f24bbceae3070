"""Pictures in Parquet tables, as the Hub stores most image datasets, written as files.

A row has its picture as bytes in a column (`image`, usually) and its caption in another. They are
written once, as picture files and a `metadata.jsonl` that names each with its caption.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from tenner.core.errors import DatasetError
from tenner.core.messages import msg
from tenner.dataset.metadata import COLUMNS
from tenner.storage.http import refuse_size

_IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
_STRUCTURE = re.compile(r"struct<(?:.*, )?bytes: (?:large_)?binary")
_ROWS = 16
"""Rows in memory at a time: a picture may have many MB."""
_KINDS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


def find_tables(folder: Path) -> tuple[Path, ...]:
    """The tables to train on: those of the train split, where files are named by splits."""
    found = sorted(folder.rglob("*.parquet"))
    training = [path for path in found if "train" in path.relative_to(folder).as_posix()]
    return tuple(training or found)


def write_pictures(tables: Sequence[Path], to: Path, *, max_bytes: int) -> None:
    """Write the pictures of all rows to the folder `to`, with a `metadata.jsonl`.

    Raises DatasetError where there are none, they are too many, or one cannot be read or written.
    """
    try:
        import pyarrow  # pyright: ignore
        import pyarrow.parquet as parquet  # pyright: ignore
    except ImportError:
        raise DatasetError(
            msg(
                "{name} is a table of pictures (Parquet), which needs one more package",
                name=tables[0].name,
            ),
            fix=msg("pip install 'tenner[parquet]'"),
        ) from None
    problems = cast("tuple[type[Exception], ...]", (pyarrow.ArrowException, OSError))  # pyright: ignore
    total = 0
    with (to / "metadata.jsonl").open("w", encoding="utf-8") as captions:
        for number, table in enumerate(tables):
            try:
                rows = _rows(parquet.ParquetFile(table))  # pyright: ignore
                for index, (picture, caption) in enumerate(rows):
                    total += len(picture)
                    refuse_size(total, max_bytes)
                    name = f"{number:04d}-{index:06d}{_suffix(picture)}"
                    (to / name).write_bytes(picture)
                    _note(captions, name, caption)
            except problems as error:
                reason = str(error).strip().partition("\n")[0]
                raise DatasetError(
                    msg(
                        "the pictures in {name} cannot be extracted: {reason}",
                        name=table.name,
                        reason=reason,
                    ),
                    fix=msg("fetch it again, and check the free disk space"),
                ) from None
    if not total:
        raise DatasetError(
            msg("{name} has no column of pictures", name=tables[0].name),
            fix=msg("name a dataset of pictures; a column such as `image` holds their bytes"),
        )


def _rows(table: Any) -> Iterator[tuple[bytes, str | None]]:
    """Every row that has a picture, with its caption."""
    image = _image_column(table.schema_arrow)
    if image is None:
        return
    names = cast("list[str]", table.schema_arrow.names)
    text = next((name for name in COLUMNS if name in names), None)
    columns = [image, text] if text else [image]
    for batch in table.iter_batches(batch_size=_ROWS, columns=columns):
        for row in cast("list[Mapping[str, Any]]", batch.to_pylist()):
            cell: Any = row[image]
            picture = cell.get("bytes") if isinstance(cell, dict) else cell  # pyright: ignore
            caption = row[text] if text else None
            if isinstance(picture, bytes) and picture:
                yield picture, caption if isinstance(caption, str) else None


def _image_column(schema: Any) -> str | None:
    """The column of pictures: a structure with their bytes, or plain bytes under a usual name."""
    kinds = {str(field.name): str(field.type) for field in schema}
    structures = [name for name, kind in kinds.items() if _STRUCTURE.match(kind)]
    plain = [name for name, kind in kinds.items() if kind in ("binary", "large_binary")]
    usual = [name for name in _IMAGE_COLUMNS if name in (*structures, *plain)]
    return next(iter((*usual, *structures)), None)


def _suffix(picture: bytes) -> str:
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return ".webp"
    if picture[4:12] in (b"ftypavif", b"ftypavis"):
        return ".avif"
    if picture[4:8] == b"ftyp":
        return ".heic"
    # What is none of these is reported as damaged when it is decoded.
    return next((suffix for start, suffix in _KINDS if picture.startswith(start)), ".jpg")


def _note(captions: TextIO, name: str, caption: str | None) -> None:
    if caption is not None:
        line = json.dumps({"file_name": name, "text": caption}, ensure_ascii=False)
        captions.write(line + "\n")

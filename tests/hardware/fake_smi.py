"""A program named nvidia-smi that answers as the real one does, for cards described in a test."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAM = """#!{python}
import json, sys
described = json.loads({described!r})
words = sys.argv[1:]
query = next((word.partition("=")[2] for word in words if word.startswith("--query-gpu=")), None)
if described.get("message") is not None:
    print(described["message"]); sys.exit(described["exit"])
if query is not None:
    fields = query.split(",")
    for field in fields:
        if field in described["unknown_fields"]:
            print(f'Field "{{field}}" is not a valid field to query.'); sys.exit(2)
    for index, card in enumerate(described["cards"]):
        row = {{"index": index, **card}}
        for field, value in row.items():
            if str(value).startswith("@"):  # the file's content now
                row[field] = open(value[1:]).read()
        print(", ".join(str(row.get(field, "[N/A]")) for field in fields))
elif "-x" in words:
    print(described["xml"])
elif "-L" in words:
    for index, card in enumerate(described["cards"]):
        print(f"GPU {{index}}: {{card['name']}} (UUID: {{card.get('uuid', 'GPU-0')}})")
"""


def install_smi(
    folder: Path,
    cards: Sequence[Mapping[str, object]] = (),
    *,
    unknown_fields: Sequence[str] = (),
    xml: str = "",
    message: str | None = None,
    code: int = 0,
) -> dict[str, str]:
    """Put the program into `folder`; returns an environment whose PATH holds only that."""
    described = {
        "cards": [dict(card) for card in cards],
        "unknown_fields": list(unknown_fields),
        "xml": xml,
        "message": message,
        "exit": code,
    }
    path = folder / "nvidia-smi"
    path.write_text(PROGRAM.format(python=sys.executable, described=json.dumps(described)))
    path.chmod(0o755)
    return {"PATH": str(folder)}


def card(
    name: str, total: object, driver: str, capability: object = "[N/A]", free: object = None
) -> dict[str, object]:
    """A card as `--query-gpu` reports it."""
    return {
        "name": name,
        "memory.total": total,
        "memory.free": total if free is None else free,
        "driver_version": driver,
        "compute_cap": capability,
    }

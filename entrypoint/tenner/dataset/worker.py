"""A worker process: one JSON line in, one JSON line out, until its input ends.

`{"do": "inspect", …}` returns an image's facts, `{"do": "head", …}` those of its head,
`{"do": "convert", …}` writes its clean copy.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tenner.core.messages import Message
from tenner.dataset.decode import TooBig, convert, inspect
from tenner.dataset.facts import ImageFacts, Unreadable

# Standard output carries the replies: what a library prints must not mix with them.
_answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """The reply to `task`; a failure is returned as a reply too."""
    path = Path(os.fsdecode(bytes.fromhex(task["path"])))
    if task["do"] == "convert":
        return convert(
            path,
            Path(os.fsdecode(bytes.fromhex(task["target"]))),
            needs=tuple(task["needs"]),
            alpha_color=task["alpha_color"],
            keep_alpha=task["keep_alpha"],
            mask=Path(os.fsdecode(bytes.fromhex(task["mask"]))) if task.get("mask") else None,
        )
    if task["do"] == "head":
        from tenner.dataset.heads import head_of

        found = head_of(path, in_worker=True)
        assert found is not None
        return _as_answer(found)
    thumb = task.get("thumb")
    try:
        found = inspect(
            path,
            training_area=task["training_area"],
            alone=task.get("alone", False),
            thumb=Path(os.fsdecode(bytes.fromhex(thumb))) if thumb else None,
            thumb_side=task.get("thumb_side", 256),
        )
    except TooBig:
        return {"too_big": True}
    return _as_answer(found)


def _as_answer(found: ImageFacts | Unreadable) -> dict[str, Any]:
    if not isinstance(found, Unreadable):
        return found.to_json()
    message = found.reason.to_json() if isinstance(found.reason, Message) else None
    return {"unreadable": found.reason, "message": message}


def main() -> None:
    _reply({"ready": True})
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:  # noqa: BLE001  the parent decides what a failure means
            found = {"failed": f"{type(error).__name__}: {error}"}
        _reply(found)


def _reply(found: dict[str, Any]) -> None:
    _answers.write(json.dumps(found) + "\n")
    _answers.flush()


if __name__ == "__main__":
    main()

"""The process that drafts: a model loaded once, then a JSON line in, a JSON line out.

Started as `python -m tenner.dataset.captioning.worker JSON`, by whichever Python holds the
packages.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from tenner.dataset import decode

# Standard output carries the replies: what a library prints must not mix with them.
_answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


class Describes(Protocol):
    """A model that is loaded; `device` is where it runs."""

    device: str

    def describe(self, image: Image.Image) -> str: ...


def load(order: dict[str, Any]) -> Describes:
    """The model that was requested. Raises what its library raises."""
    folder, device, threads = Path(order["folder"]), order["device"], order["num_threads"]
    if order["kind"] == "blip":
        from tenner.dataset.captioning.blip import Captioner

        return Captioner(folder, device=device, num_threads=threads)
    if order["kind"] == "qwen":
        from tenner.dataset.captioning.qwen import Captioner as Describer

        prompt = order["prompt"]
        return Describer(folder, prompt=prompt, device=device, num_threads=threads)
    from tenner.dataset.captioning.wd14 import Choice, Tagger

    choice = Choice(
        threshold=order["threshold"],
        character_threshold=order["character_threshold"],
        left_out=frozenset(order["left_out"]),
    )
    return Tagger(folder, choice, device=device, num_threads=threads)


def answer(model: Describes, task: dict[str, Any]) -> dict[str, Any]:
    """The draft for one picture, or why it cannot be read."""
    path = Path(os.fsdecode(bytes.fromhex(task["path"])))
    image = decode.viewable_picture(path)
    if isinstance(image, str):
        return {"unreadable": image}
    return {"caption": model.describe(image)}


def main() -> None:
    try:
        model = load(json.loads(sys.argv[1]))
    except Exception as error:  # noqa: BLE001  the parent reports the library's error
        _reply({"failed": f"{type(error).__name__}: {error}"})
        return
    _reply({"ready": True, "device": model.device})
    for line in sys.stdin:
        try:
            _reply(answer(model, json.loads(line)))
        except Exception as error:  # noqa: BLE001
            _reply({"failed": f"{type(error).__name__}: {error}"})


def _reply(found: dict[str, Any]) -> None:
    _answers.write(json.dumps(found) + "\n")
    _answers.flush()


if __name__ == "__main__":
    main()

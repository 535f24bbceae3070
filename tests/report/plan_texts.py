"""Prints, as JSON, the texts of a plan that a page cannot show in another language.

Run as a process of its own, on the machine that its environment describes.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tenner.core.messages import has_id
from tenner.pipeline.preflight import Preflight, prepare
from tenner.settings.resolve import load_request
from tenner.ui.translation import translated


def untranslated(text: str) -> Iterator[str]:
    """Texts of several words in `text`, itself included, that are no translated messages."""
    if has_id(text):
        if translated(text, "ar") is None:
            yield text.msgid
        for value in text.values.values():
            if has_id(value):
                yield from untranslated(value)
    elif " " in text.strip() and translated(text, "ar") is None:
        yield text


def main() -> None:
    request = load_request(json.loads(sys.argv[1]), os.environ)
    checks = Preflight(try_card=False, fetches_base=False)
    plan = prepare(request, os.environ, Path("plan"), checks=checks).plan
    texts = [each.reason for each in plan.choices]
    texts += [text for each in plan.notices for text in (each.text, each.fix)]
    assert len(texts) > 10
    print(json.dumps([missing for text in texts for missing in untranslated(text)]))


if __name__ == "__main__":
    main()

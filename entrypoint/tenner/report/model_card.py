"""The model card: what the weights are, how they are loaded, and under which licence.

Its head is metadata that the Hugging Face Hub understands (base model, instance prompt, tags,
widget pictures). Its last line is a hash of the rest, so that a card that a person has edited is
known and never replaced. Nothing in it is a path of the machine that trained.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CARD_NAME = "README.md"
_MARK = re.compile(rb"<!-- tenner [0-9a-f]{16} -->\n?\Z")


@dataclass(frozen=True, kw_only=True)
class WidgetPicture:
    """A picture that the Hub shows beside its prompt. `url` is relative to the card."""

    url: str
    prompt: str
    negative_prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The content of the card. `base_id` is the base's repo on the Hub, where it is one.

    `load_from` is the repo with the weights, or `.` for the card's own folder. `early` is, for a
    training that ended early, how far it came and why; `is_whole_set` is False where only its
    newest checkpoint is there.
    """

    name: str
    weights: str
    version: str
    family: str
    pipeline: str
    """Class of diffusers; empty where diffusers does not load these weights."""
    kind: str = "LoRA"
    """Of network, in words."""
    webui: str = "AUTOMATIC1111, Forge"
    """Those of the two that load these weights; empty where neither does."""
    has_comfyui: bool = True
    """Whether ComfyUI loads these weights."""
    converter: str = ""
    """sd-scripts' script that ComfyUI needs before."""
    left_out: str = ""
    """What ComfyUI does not load of these weights, as a sentence."""
    tag: str
    """The Hub's tag for the kind of base."""
    base_name: str
    base_id: str = ""
    base_licence: str = ""
    licence_note: str = ""
    trigger: str = ""
    num_images: int = 0
    num_captions: int = 0
    has_grid: bool = False
    load_from: str = "."
    subfolder: str = ""
    early: str = ""
    is_whole_set: bool = True
    training: tuple[tuple[str, str], ...] = ()
    pictures: tuple[WidgetPicture, ...] = ()

    @property
    def file_name(self) -> str:
        return Path(self.weights).name

    @property
    def example_prompt(self) -> str:
        return self.pictures[0].prompt if self.pictures else self.trigger or "a picture"

    @property
    def a1111_prompt(self) -> str:
        return f"<lora:{Path(self.weights).stem}:0.8> {self.example_prompt}"


def render_card(card: Card) -> str:
    """The whole text of the card, with its mark."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("tenner.report", "."),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown: every text goes through a filter below
        keep_trailing_newline=True,
    )
    pages.filters |= {
        "yaml": _yaml,
        "plain": _plain,
        "code": _code,
        "cell": _cell,
        "quoted": _quoted,
    }
    text = pages.get_template("model_card.md").render(card=card, metadata=metadata_of(card))
    return f"{text}\n{_mark_of(text + chr(10))}\n"


def metadata_of(card: Card) -> dict[str, Any]:
    """The head of the card, in the Hub's words."""
    kind = card.tag
    tags = ["text-to-image", kind, f"{kind}-diffusers", "diffusers", "lora", "template:sd-lora"]
    widget = [
        {
            "text": each.prompt,
            **(
                {"parameters": {"negative_prompt": each.negative_prompt}}
                if each.negative_prompt
                else {}
            ),
            "output": {"url": each.url},
        }
        for each in card.pictures
    ]
    found: dict[str, Any] = {
        "base_model": card.base_id,
        "base_model_relation": "adapter" if card.base_id else "",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": card.base_licence,
        "instance_prompt": card.trigger,
        "tags": [*tags, "tenner"],
        "widget": widget,
    }
    return {key: value for key, value in found.items() if value}


def is_edited(content: bytes) -> bool:
    """Whether a person has written or edited the card at a destination.

    A card of ours that is as it was written is not; nor is a head alone, as the Hub makes it.
    """
    found = _MARK.search(content)
    if found:
        text = content[: found.start()].decode(errors="replace")
        return found.group().decode().strip() != _mark_of(text)
    body = re.sub(rb"\A\s*---\n.*?\n---\s*", b"", content, flags=re.DOTALL)
    return bool(body.strip())


def _mark_of(text: str) -> str:
    return f"<!-- tenner {hashlib.sha256(text.encode()).hexdigest()[:16]} -->"


def _yaml(value: Any) -> str:
    """JSON, which YAML reads."""
    return json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    """A Python string."""
    return json.dumps(_one_line(text), ensure_ascii=False)


def _plain(text: str) -> str:
    """Text in which Markdown and HTML see no sign of theirs."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", _one_line(text))


def _cell(text: str) -> str:
    return _plain(text)


def _code(text: str) -> str:
    """Text between backticks, of which there are more than in the text."""
    text = _one_line(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _one_line(text: str) -> str:
    return " ".join(text.split())

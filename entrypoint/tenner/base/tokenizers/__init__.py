"""CLIP's tokenizers, built from the one file that defines them, without a request to the Hub.

A single-file checkpoint holds no tokenizer, and sd-scripts requests one of the Hub unless it finds
it in a folder. `merges.txt` holds CLIP's byte-pair merges (OpenAI, MIT licence, see `LICENSE`); the
vocabulary follows from them: the 256 bytes, the same at a word's end, the merges in their order,
two marks, 49,408 tokens in all.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tenner.core.family import Family
from tenner.core.files import write_atomically
from tenner.core.temporary_files import temporary_folder

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
NUM_TOKENS = 49_408

PADDING = {
    "openai_clip-vit-large-patch14": END,
    "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k": "!",
    "stabilityai_stable-diffusion-2": "!",
}
"""Folder names as sd-scripts looks for them (library/strategy_sd.py, strategy_sdxl.py), and what
each pads a caption with. OpenCLIP, whose text encoders SD 2.x and SDXL's second are, pads with
zeros, and "!" is token 0; OpenAI's pads with the end mark."""


def tokenizer_names(family: Family) -> tuple[str, ...]:
    """The folders of a family's tokenizers, in the order of its text encoders."""
    openai, open_clip, sd2 = PADDING
    return {"sd1": (openai,), "sd2": (sd2,), "sdxl": (openai, open_clip)}[family]


def write_clip_tokenizers(to: Path) -> Path:
    """Write the tokenizers' folders under `to`, and return `to`. Raises OSError."""
    merges = (Path(__file__).parent / "merges.txt").read_text(encoding="utf-8")
    vocabulary = json.dumps(make_vocabulary(merges), ensure_ascii=False)
    for name, padding in PADDING.items():
        folder = to / name
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
        settings = special | {
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": MAX_TOKENS,
            "tokenizer_class": "CLIPTokenizer",
        }
        for file, text in {
            "merges.txt": merges,
            "vocab.json": vocabulary,
            "special_tokens_map.json": json.dumps(special, indent=1),
            "tokenizer_config.json": json.dumps(settings, indent=1),
        }.items():
            if not (folder / file).is_file():
                write_atomically(folder / file, text)
    return to


def open_clip_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder of either form; for processes that have transformers.

    transformers 5 writes `tokenizer.json` alone, which the CLIPTokenizer of version 4 cannot read:
    it gets the same vocabulary and merges as files of their own. Raises OSError or ValueError.
    """
    from transformers import CLIPTokenizer

    kind: Any = CLIPTokenizer
    whole = folder / "tokenizer.json"
    if (folder / "vocab.json").is_file() or not whole.is_file():
        return kind.from_pretrained(folder, local_files_only=True)
    model: dict[str, Any] = json.loads(whole.read_text(encoding="utf-8"))["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    with temporary_folder("tokenizer") as name:
        parted = Path(name)
        for each in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / each).is_file():
                shutil.copyfile(folder / each, parted / each)
        (parted / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
        text = "\n".join(["#version: 0.2", *merges, ""])
        (parted / "merges.txt").write_text(text, encoding="utf-8")
        return kind.from_pretrained(parted, local_files_only=True)


def make_vocabulary(merges: str) -> dict[str, int]:
    """Every token with its number."""
    pairs = merges.splitlines()[1:]  # the first line is a version mark
    alphabet = list(printable_bytes().values())
    tokens = [*alphabet, *(f"{mark}</w>" for mark in alphabet)]
    tokens += ["".join(pair.split()) for pair in pairs if pair.strip()]
    tokens += [START, END]
    assert len(tokens) == NUM_TOKENS, len(tokens)
    return {token: number for number, token in enumerate(tokens)}


def printable_bytes() -> dict[int, str]:
    """The printable sign for each of the 256 bytes, in CLIP's order: those that print first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    signs = {byte: chr(byte) for byte in printable}
    return signs | {byte: chr(256 + number) for number, byte in enumerate(others)}

"""Captions to what the U-Net is conditioned on: tokens, chunks, hidden states, pooled text.

Where no text encoder is trained and captions do not change, every caption is encoded once and
looked up from then on.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from tenner.clip_tokenizers import open_clip_tokenizer
from tenner.engines.diffusers.clip import ClipText
from tenner.engines.diffusers.job import Family

# Texts kept where captions change from showing to showing.
_MAX_REMEMBERED = 4096


@dataclass(frozen=True)
class Conditioning:
    """context [batch, words, width]; pooled [batch, width] for SDXL."""

    context: Tensor
    pooled: Tensor | None = None


class Tokenizer:
    """A CLIP tokenizer that cuts long captions into chunks of 75 tokens, as sd-scripts does."""

    def __init__(self, folder: Path, max_token_length: int, *, pad_with_zero: bool = False) -> None:
        self._tokenizer = open_clip_tokenizer(folder)
        self.eos: int = self._tokenizer.eos_token_id
        self.bos: int = self._tokenizer.bos_token_id
        self.pad: int = 0 if pad_with_zero else self._tokenizer.pad_token_id
        self.chunk: int = min(int(self._tokenizer.model_max_length), 77) - 2
        self.num_chunks = max(1, max_token_length // 75)

    @property
    def pads_with_eos(self) -> bool:
        return self.pad == self.eos

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Token ids [captions * chunks, chunk + 2], each chunk with its begin and end."""
        rows = [row for caption in captions for row in self._rows(caption)]
        return torch.tensor(rows, dtype=torch.long)

    def _rows(self, caption: str) -> list[list[int]]:
        room = self.chunk * self.num_chunks
        words: list[int] = self._tokenizer(
            caption, add_special_tokens=False, truncation=True, max_length=room
        )["input_ids"][:room]
        filled = [*words, self.eos]
        filled += [self.pad] * (room + 1 - len(filled))
        return [self._row(filled, index * self.chunk) for index in range(self.num_chunks)]

    def _row(self, filled: list[int], start: int) -> list[int]:
        inner = filled[start : start + self.chunk]
        if self.pads_with_eos or self.num_chunks == 1:
            end = self.eos if self.num_chunks > 1 else filled[self.chunk]
            return [self.bos, *inner, end]
        end = filled[-1] if inner[-1] in (self.eos, self.pad) else self.eos
        if inner[0] == self.pad:
            inner = [self.eos, *inner[1:]]
        return [self.bos, *inner, end]


class TextEncoders:
    """The text side of a model: one encoder, or SDXL's two."""

    def __init__(
        self,
        family: Family,
        encoders: Sequence[tuple[Tokenizer, ClipText]],
        projection: Tensor | None,
        clip_skip: int | None,
        device: torch.device,
    ) -> None:
        self._sdxl = family == "sdxl"
        self.encoders = tuple(encoders)
        self._projection = projection
        self._clip_skip = clip_skip or 1
        self._device = device

    def encode(self, captions: Sequence[str]) -> Conditioning:
        if not self._sdxl:
            return Conditioning(self._single(captions))
        first = self._hidden(captions, 0)
        second, pooled = self._second(captions)
        return Conditioning(torch.cat([first, second], dim=2), pooled)

    def _single(self, captions: Sequence[str]) -> Tensor:
        tokenizer, encoder = self.encoders[0]
        hidden = encoder.hidden(tokenizer(captions).to(self._device), self._clip_skip)
        return _rejoined(encoder.final_norm(hidden), tokenizer, len(captions))

    def _hidden(self, captions: Sequence[str], index: int) -> Tensor:
        tokenizer, encoder = self.encoders[index]
        hidden = encoder.hidden(tokenizer(captions).to(self._device), 2)
        return _rejoined(hidden, tokenizer, len(captions))

    def _second(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The last layer but one, and the projected end of text after the last."""
        tokenizer, encoder = self.encoders[1]
        ids = tokenizer(captions).to(self._device)
        layers = encoder.config.num_layers
        hidden = encoder.hidden(ids, 2)
        last = encoder.run(hidden, layers - 1, layers, batch=ids.shape[0])
        ends = (ids == tokenizer.eos).int().argmax(dim=1)
        places = torch.arange(ids.shape[0], device=self._device) * ids.shape[1] + ends
        pooled = encoder.final_norm(last[places[:: tokenizer.num_chunks]])
        projected = functional.linear(pooled, cast(Tensor, self._projection))
        return _rejoined(hidden, tokenizer, len(captions)), projected


class CaptionCache:
    """Remembers what each caption encodes to. For frozen text encoders only."""

    def __init__(self, encoders: TextEncoders) -> None:
        self._encoders = encoders
        self._known: dict[str, Conditioning] = {}

    def encode(self, captions: Sequence[str]) -> Conditioning:
        for caption in captions:
            if caption not in self._known:
                if len(self._known) >= _MAX_REMEMBERED:
                    self._known.pop(next(iter(self._known)))
                with torch.no_grad():
                    self._known[caption] = self._encoders.encode([caption])
        found = [self._known[caption] for caption in captions]
        pooled = [each.pooled for each in found if each.pooled is not None]
        return Conditioning(
            torch.cat([each.context for each in found]), torch.cat(pooled) if pooled else None
        )


def _rejoined(hidden: Tensor, tokenizer: Tokenizer, num_captions: int) -> Tensor:
    """Chunks side by side: the first begin, the words of all, the last end."""
    states = hidden.view(num_captions, tokenizer.num_chunks, tokenizer.chunk + 2, -1)
    if tokenizer.num_chunks == 1:
        return states[:, 0]
    words = states[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states[:, 0, :1], words, states[:, -1, -1:]], dim=1)

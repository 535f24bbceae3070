"""From captions to the U-Net's conditioning: tokens, chunks, hidden states, pooled text.

Where no text encoder is trained, encoded captions are cached.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from tenner.base.tokenizers import open_clip_tokenizer
from tenner.core.family import Family
from tenner.engines.native.clip import ClipText

CACHE_BYTES = 1 << 30
"""The host's memory for encoded captions: 4,500 of SD 1.5 in fp32, 1,700 of SDXL."""


@dataclass(frozen=True)
class Conditioning:
    """Encoded captions: context [batch, tokens, width], for SDXL pooled [batch, width] too."""

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
        """Token ids [captions * chunks, chunk + 2]: each chunk has a begin and an end token."""
        rows = [row for caption in captions for row in self._rows(caption)]
        return torch.tensor(rows, dtype=torch.long)

    def _rows(self, caption: str) -> list[list[int]]:
        length = self.chunk * self.num_chunks
        tokens: list[int] = self._tokenizer(
            caption, add_special_tokens=False, truncation=True, max_length=length
        )["input_ids"][:length]
        filled = [*tokens, self.eos]
        filled += [self.pad] * (length + 1 - len(filled))
        return [self._row(filled, index * self.chunk) for index in range(self.num_chunks)]

    def _row(self, filled: list[int], start: int) -> list[int]:
        """One chunk, by sd-scripts' rules, which differ by the tokenizer's padding: SD 1.x pads
        with the end token; SD 2.x and SDXL's second tokenizer with 0 after one end token."""
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
        self.encoders: tuple[tuple[Tokenizer, ClipText], ...] = tuple(encoders)
        self._projection = projection
        self._clip_skip = clip_skip or 1
        self.device = device

    def release(self) -> None:
        """Release the weights; nothing can be encoded from then on."""
        self.encoders = ()
        self._projection = None

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """Encode captions on the device."""
        return self.encode_tokens(self.tokens(captions))

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, ...]:
        """Token ids of each encoder, [captions * chunks, tokens], on the device."""
        return tuple(to_device(tokenizer(captions), self.device) for tokenizer, _ in self.encoders)

    def encode_tokens(self, tokens: Sequence[Tensor]) -> Conditioning:
        """Encode each encoder's token ids. Uses the device alone: a graph can capture it."""
        if not self._sdxl:
            return Conditioning(self._single(tokens[0]))
        first = self._hidden(tokens[0], 0)
        second, pooled = self._second(tokens[1])
        return Conditioning(torch.cat([first, second], dim=2), pooled)

    def _single(self, ids: Tensor) -> Tensor:
        tokenizer, encoder = self.encoders[0]
        hidden = encoder.hidden(ids, self._clip_skip)
        return _rejoined(encoder.final_norm(hidden), tokenizer)

    def _hidden(self, ids: Tensor, index: int) -> Tensor:
        tokenizer, encoder = self.encoders[index]
        return _rejoined(encoder.hidden(ids, 2), tokenizer)

    def _second(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """SDXL's second encoder: the hidden states of its last layer but one, and the pooled text:
        the end token's state after the last layer, normed and projected, of each first chunk."""
        tokenizer, encoder = self.encoders[1]
        layers = encoder.config.num_layers
        hidden = encoder.hidden(ids, 2)
        last = encoder.run(hidden, layers - 1, layers, batch=ids.shape[0])
        ends = (ids == tokenizer.eos).int().argmax(dim=1)
        positions = torch.arange(ids.shape[0], device=self.device) * ids.shape[1] + ends
        pooled = encoder.final_norm(last[positions[:: tokenizer.num_chunks]])
        projected = functional.linear(pooled, cast(Tensor, self._projection))
        return _rejoined(hidden, tokenizer), projected


class CaptionCache:
    """A cache of encoded captions, for frozen text encoders.

    It is in the host's memory, pinned where the encoders are on a card: a batch is copied in less
    time than one caption takes to encode, and captions that change with every sample do not fill
    the card's memory. Above `max_bytes` the least recently used caption is dropped.
    """

    def __init__(self, encoders: TextEncoders, max_bytes: int = CACHE_BYTES) -> None:
        self._encoders = encoders
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._known: OrderedDict[str, Conditioning] = OrderedDict()

    def fill(self, captions: Sequence[str], on_caption: Callable[[int, int], None]) -> None:
        """Encode and cache `captions`, of any size in all: the training has no others."""
        self._max_bytes = sys.maxsize
        for done, caption in enumerate(captions):
            self._find(caption)
            on_caption(done + 1, len(captions))

    @property
    def num_bytes(self) -> int:
        """The size of the cached captions, in bytes."""
        return self._num_bytes

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """The captions' conditioning, on the encoders' device."""
        found = {caption: self._find(caption) for caption in dict.fromkeys(captions)}
        each = [found[caption] for caption in captions]
        pooled = [one.pooled for one in each if one.pooled is not None]
        return Conditioning(
            torch.cat([one.context for one in each]), torch.cat(pooled) if pooled else None
        )

    def _find(self, caption: str) -> Conditioning:
        """One caption, on the encoders' device."""
        known = self._known.get(caption)
        if known is not None:
            self._known.move_to_end(caption)
            return _moved(known, self._encoders.device)
        with torch.no_grad():
            encoded = self._encoders.encode([caption])
        on_host = _on_host(encoded)
        self._known[caption] = on_host
        self._num_bytes += _size(on_host)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= _size(self._known.popitem(last=False)[1])
        return encoded


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of the host's tensor on the device, which is not waited for."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _on_host(found: Conditioning) -> Conditioning:
    def move(tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.cpu()
        copied = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return copied.copy_(tensor, non_blocking=True)  # read back on the same stream, so in order

    return Conditioning(move(found.context), None if found.pooled is None else move(found.pooled))


def _moved(found: Conditioning, device: torch.device) -> Conditioning:
    pooled = None if found.pooled is None else found.pooled.to(device, non_blocking=True)
    return Conditioning(found.context.to(device, non_blocking=True), pooled)


def _size(found: Conditioning) -> int:
    return found.context.nbytes + (0 if found.pooled is None else found.pooled.nbytes)


def _rejoined(hidden: Tensor, tokenizer: Tokenizer) -> Tensor:
    """The chunks of each caption joined: the first begin, the inner tokens of all, the last end.

    `hidden` is [captions * chunks * (chunk + 2), width]; returns
    [captions, chunks * chunk + 2, width].
    """
    tokens = tokenizer.chunk + 2
    states = hidden.view(-1, tokenizer.num_chunks, tokens, hidden.shape[-1])
    if tokenizer.num_chunks == 1:
        return states[:, 0]
    inner = states[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states[:, 0, :1], inner, states[:, -1, -1:]], dim=1)

"""The CLIP text encoder, written for training a LoRA on it.

The arithmetic and the names of the weights are those of transformers' CLIPTextModel (a test
compares both). Only the layers whose output is used are run. As in the U-Net, features are
[tokens, width] and query, key and value are one product.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tenner.engines.native.layers import LayerNorm, attention, heads_of, quick_gelu
from tenner.engines.native.parts import Parts
from tenner.engines.native.projection import Projection

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": functional.gelu,
}


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    width: int
    num_layers: int
    num_heads: int
    activation: str
    eps: float


def parse_clip_config(config: Mapping[str, Any]) -> ClipConfig:
    """The numbers of transformers' `text_encoder/config.json`. Raises ValueError."""
    activation = str(config.get("hidden_act", "quick_gelu"))
    if activation not in _ACTIVATIONS:
        raise ValueError(f"not a CLIP text encoder: hidden_act = {activation!r}")
    return ClipConfig(
        width=int(config.get("hidden_size", 512)),
        num_layers=int(config.get("num_hidden_layers", 12)),
        num_heads=int(config.get("num_attention_heads", 8)),
        activation=activation,
        eps=float(config.get("layer_norm_eps", 1e-5)),
    )


@dataclass(frozen=True, kw_only=True)
class _Layer:
    norm1: LayerNorm
    qkv: Projection
    out: Projection
    norm2: LayerNorm
    feed_in: Projection
    feed_out: Projection
    num_heads: int
    activation: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, batch: int) -> Tensor:
        """x [batch * tokens, width] to the same shape."""
        query, key, value = heads_of(self.qkv(self.norm1(x)), batch, 3, self.num_heads)
        x = self.out(attention(query, key, value, causal=True), x)
        return self.feed_out(self.activation(self.feed_in(self.norm2(x))), x)


class ClipText:
    """From token ids [batch, tokens] to hidden states. Its weights are made by `parts`.

    `checkpointing` recomputes the layers in the backward pass, and `restores_rng` then restores the
    random state, as dropouts need it.
    """

    def __init__(self, config: ClipConfig, parts: Parts) -> None:
        self.config = config
        self.checkpointing = False
        self.restores_rng = False
        self._token_embedding = parts.tensor("embeddings.token_embedding.weight")
        self._position_embedding = parts.tensor("embeddings.position_embedding.weight")
        self._layers = [self._layer(parts, index) for index in range(config.num_layers)]
        self._final_norm = parts.layer_norm("final_layer_norm", config.eps)

    def hidden(self, ids: Tensor, skip: int = 1) -> Tensor:
        """The output of the `skip`-th layer from the end, [batch * tokens, width], not normed."""
        return self.run(ids, 0, self.config.num_layers + 1 - skip)

    def run(self, x: Tensor, first: int, last: int, batch: int | None = None) -> Tensor:
        """Run layers `first` to `last`, the latter excluded.

        `x` are token ids [batch, tokens] where `first` is 0, else hidden states
        [batch * tokens, width], with their `batch`.
        """
        if first == 0:
            batch = x.shape[0]
            x = (self._token_embedding[x] + self._position_embedding[: x.shape[1]]).flatten(0, 1)
        for layer in self._layers[first:last]:
            if self.checkpointing and torch.is_grad_enabled():
                found = checkpoint(
                    layer, x, batch, use_reentrant=False, preserve_rng_state=self.restores_rng
                )
                x = cast(Tensor, found)
            else:
                x = layer(x, cast(int, batch))
        return x

    def final_norm(self, x: Tensor) -> Tensor:
        """The norm after the last layer, over x [tokens, width]."""
        return self._final_norm(x)

    def _layer(self, parts: Parts, index: int) -> _Layer:
        name, config = f"encoder.layers.{index}", self.config
        own = [f"{name}.self_attn.{part}_proj" for part in "qkv"]
        return _Layer(
            norm1=parts.layer_norm(f"{name}.layer_norm1", config.eps),
            qkv=parts.stacked_projection(own),
            out=parts.projection(f"{name}.self_attn.out_proj"),
            norm2=parts.layer_norm(f"{name}.layer_norm2", config.eps),
            feed_in=parts.projection(f"{name}.mlp.fc1"),
            feed_out=parts.projection(f"{name}.mlp.fc2"),
            num_heads=config.num_heads,
            activation=_ACTIVATIONS[config.activation],
        )

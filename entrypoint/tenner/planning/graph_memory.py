"""What CUDA graphs of the built-in trainer take on a card beside the passes themselves. Pure.

As `engines.native.graphs` allocates. All graphs share one pool of memory and are captured from the
largest pass on, so the pool holds what the largest takes, once. Outside of it each graph has inputs
of its own, and while graphs are captured the examples that these were copied from are there too.
The pool serves replays alone: what runs between them takes its own memory, the update of the
optimizer and, of more shapes than `MOST_GRAPHS`, the passes of the others.

Assumed: each bucket makes two shapes, a full batch and a last one, all as large as the largest; in
32 bits a shape is two graphs, as with accumulation. Both are the most there can be. The stream of
the captures has a workspace of cuBLAS beside the usual one. Not counted, as nobody has published or
measured it: the driver's own memory of the graphs, the loss's masks, and what validation takes.
"""

from collections.abc import Mapping

from tenner.core.family import Family
from tenner.core.graph_obstacle import MOST_GRAPHS

WORKSPACE_GB = 0.034
"""cuBLAS's on Hopper, 32 MiB; 8 MiB before it (torch's CUDA notes on CUBLAS_WORKSPACE_CONFIG)."""
CONTEXT_WIDTH: Mapping[Family, int] = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
"""Of the encoded text, for each of its tokens."""
POOLED_WIDTH: Mapping[Family, int] = {"sdxl": 1280}
_LATENT_CHANNELS = 4
_PIXELS_OF_A_LATENT = 64
_FEW_BYTES = 8 + 4 + 6 * 4
"""An image's timestep, its share of the loss and SDXL's sizes."""


def inputs_gb(
    family: Family, *, pixels: int, tokens: int, trains_text: bool, full_precision: bool
) -> float:
    """The inputs of a pass for each image: its noisy latents, what is to be predicted in 32 bits,
    and its text, encoded or, where text encoders are trained, as numbers of tokens."""
    width = 4 if full_precision else 2
    latents = _LATENT_CHANNELS * pixels / _PIXELS_OF_A_LATENT * (width + 4)
    text = (CONTEXT_WIDTH[family] * tokens + POOLED_WIDTH.get(family, 0)) * width
    if trains_text:
        text = tokens * 8 * (2 if family == "sdxl" else 1)
    return (latents + text + _FEW_BYTES) / 1e9


def num_shapes(num_buckets: int, batch_size: int) -> int:
    """Shapes of passes, at most."""
    return num_buckets if batch_size == 1 else 2 * num_buckets


def beside_pool_gb(
    *, shapes: int, inputs: float, passes: float, update: float, full_precision: bool
) -> float:
    """What is taken beside the pool: `inputs` are those of a pass, `passes` what the largest takes,
    `update` what the optimizer's update does, all in GB."""
    captured = min(shapes, MOST_GRAPHS)
    own = captured * (2 if full_precision else 1) * inputs
    examples = captured * inputs
    not_captured = passes if shapes > MOST_GRAPHS else 0.0
    return own + max(examples, update, not_captured) + WORKSPACE_GB

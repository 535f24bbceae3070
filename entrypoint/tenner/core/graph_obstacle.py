"""Which passes of a training are captured as CUDA graphs, and what prevents it. The plan warns of
that, and the built-in trainer then trains without graphs."""

from collections.abc import Mapping
from typing import Literal

from tenner.core.messages import Message, msg

MOST_GRAPHS = 32
"""Shapes of passes that the built-in trainer captures, the commonest ones: each takes time at the
start, which no card has measured yet."""
GraphObstacle = Literal["no card", "module_dropout", "recomputed dropouts", "torch_compile"]
REASONS: Mapping[GraphObstacle, Message] = {
    "no card": msg("there is no NVIDIA card"),
    "module_dropout": msg("module_dropout decides anew in every pass what is computed"),
    "recomputed dropouts": msg("dropouts under gradient_checkpointing draw the same numbers twice"),
    "torch_compile": msg("torch_compile has not been tried with them"),
}


def graph_obstacle(
    *,
    on_card: bool,
    module_dropout: bool,
    dropouts: bool,
    gradient_checkpointing: bool,
    torch_compile: bool,
) -> GraphObstacle | None:
    """The first obstacle, or None. `dropouts` are those inside of modules and of ranks."""
    if not on_card:
        return "no card"
    if module_dropout:
        return "module_dropout"
    if dropouts and gradient_checkpointing:
        return "recomputed dropouts"
    return "torch_compile" if torch_compile else None

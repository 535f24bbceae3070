"""The network of a LyCORIS file, from which a training continues.

lycoris.kohya makes the network from its arguments and then loads the file's tensors by name; those
that do not fit are ignored without a message (`load_weights` of lycoris-lora 3.4.0). So the network
has to be made with the arguments that the file was trained with. Its tensors show only a part of
them; sd-scripts writes all into the metadata.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tenner.kohya.networks import LYCORIS, NETWORKS
from tenner.lora_files.names import Kind
from tenner.lora_files.reading import LoraFile

CONTINUED: tuple[Kind, ...] = ("loha", "lokr", "dora", "lora", "ia3")
"""Kinds of lycoris.kohya from which a training was continued in a test."""


@dataclass(frozen=True, kw_only=True)
class LycorisStart:
    """The network of a LyCORIS file: rank and alpha, and its arguments by name."""

    network_dim: int
    network_alpha: float
    arguments: Mapping[str, str]


def is_of_lycoris(file: LoraFile) -> bool:
    """Whether only LyCORIS can train the file further, as opposed to a plain LoRA's trainer."""
    return any(kind != "lora" for kind in file.kinds) or (
        file.metadata.get("ss_network_module") == LYCORIS
    )


def lycoris_start(file: LoraFile) -> LycorisStart | None:
    """The network that the file's metadata describe; None where they do not, or not all of it."""
    if any(kind not in CONTINUED for kind in file.kinds):
        return None
    metadata = file.metadata
    if metadata.get("ss_network_module") != LYCORIS:
        return None
    try:
        given: Any = json.loads(metadata.get("ss_network_args") or "{}")
        rank, alpha = int(metadata["ss_network_dim"]), float(metadata["ss_network_alpha"])
    except (KeyError, ValueError):
        return None
    if not isinstance(given, dict):
        return None
    arguments = {
        key: str(value)
        for key, value in cast(dict[str, object], given).items()
        if value is not None and key in NETWORKS[LYCORIS].arguments
    }
    return LycorisStart(network_dim=rank, network_alpha=alpha, arguments=arguments)

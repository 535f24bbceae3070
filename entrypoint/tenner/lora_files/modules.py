"""An adapted module of a LoRA file: its kind, rank and sizes, by its tensors' shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tenner.core.network_parts import Part
from tenner.lora_files.names import Kind, underscored


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """A tensor in a file's header. `start` and `end` are bytes from the file's beginning."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


Tensors = Mapping[str, TensorEntry]
"""A module's tensors by their roles (`tenner.lora_files.names.TensorName.role`)."""


@dataclass(frozen=True, kw_only=True)
class LoraModule:
    """One adapted module of a file.

    `name` and `path` are those in `file`. `rank` is None where the kind has none; `in_features`,
    `out_features` and `kernel` are None where the tensors do not show them. `is_whole` is False
    where a tensor is missing, or down and up do not fit each other.
    """

    file: Path
    name: str
    part: Part
    path: str
    kind: Kind
    rank: int | None
    alpha: float | None
    in_features: int | None
    out_features: int | None
    kernel: tuple[int, ...] | None
    is_whole: bool
    tensors: Tensors

    @property
    def scale(self) -> float:
        """The factor of the tensors' product: alpha / rank, 1 without an alpha."""
        if self.alpha is None or not self.rank:
            return 1.0
        return self.alpha / self.rank

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution larger than 1x1, which has a rank of its own (conv_dim)."""
        return max(self.kernel or (1,)) > 1

    @property
    def plain_path(self) -> str:
        """The path with underscores for dots: equal for the same module in kohya's, PEFT's and
        diffusers' names, except for SDXL's blocks, which kohya calls by the original layout."""
        return underscored(self.path)


def kind_of(tensors: Tensors) -> Kind:
    """The kind of network that these tensors make."""
    roles = set(tensors)
    if {"down", "up"} & roles:
        return "dora" if "magnitude" in roles else "lora"
    begins: tuple[tuple[str, Kind], ...] = (
        ("hada_", "loha"),
        ("lokr_", "lokr"),
        ("oft_", "oft"),
        ("glora_", "glora"),
        ("on_input", "ia3"),
        ("diff", "full"),
        ("w_norm", "norm"),
        ("b_norm", "norm"),
    )
    for beginning, kind in begins:
        if any(role.startswith(beginning) for role in roles):
            return kind
    return "unknown"


_NEEDED: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "lora": (("down",), ("up",)),
    "dora": (("down",), ("up",)),
    "loha": (("hada_w1_a",), ("hada_w1_b",), ("hada_w2_a",), ("hada_w2_b",)),
    "lokr": (
        ("lokr_w1", "lokr_w1_a"),
        ("lokr_w1", "lokr_w1_b"),
        ("lokr_w2", "lokr_w2_a"),
        ("lokr_w2", "lokr_w2_b"),
    ),
    "glora": (("glora_a1",), ("glora_a2",), ("glora_b1",), ("glora_b2",)),
    "ia3": (("ia3",), ("on_input",)),
}
"""The tensors that each kind needs: one of each group."""


def is_whole(kind: Kind, tensors: Tensors) -> bool:
    """Whether the module has all tensors of its kind, and down and up fit each other."""
    if not all(any(role in tensors for role in group) for group in _NEEDED.get(kind, ())):
        return False
    if kind not in ("lora", "dora"):
        return kind != "unknown"
    down, up = tensors["down"].shape, tensors["up"].shape
    return len(down) >= 2 and len(up) >= 2 and up[1] == down[0]


_RANK_AXES = (
    ("down", 0),
    ("up", 1),
    ("hada_w1_b", 0),
    ("hada_w2_b", 0),
    ("lokr_w2_b", 0),
    ("lokr_w1_b", 0),
)


def rank_of(tensors: Tensors) -> int | None:
    """The rank; None for kinds without one, and for a LoKr whose factors are both full matrices."""
    for role, axis in _RANK_AXES:
        if role in tensors and len(tensors[role].shape) > axis:
            return tensors[role].shape[axis]
    return None


Sizes = tuple[int | None, int | None, tuple[int, ...] | None]
_UNKNOWN: Sizes = (None, None, None)


def sizes_of(kind: Kind, tensors: Tensors) -> Sizes:
    """(inputs, outputs, kernel) of the adapted module, each None where the tensors do not show it.

    LoHa and LoKr flatten a convolution's kernel into their inputs unless they are in Tucker form:
    of theirs, `inputs` is inputs times kernel, and `kernel` is not known.
    """
    shapes = {role: entry.shape for role, entry in tensors.items()}
    if kind in ("lora", "dora"):
        return _lora_sizes(shapes)
    if kind == "full" and len(shapes.get("diff", ())) >= 2:
        return shapes["diff"][1], shapes["diff"][0], shapes["diff"][2:]
    if kind == "loha" and "hada_t1" not in shapes:
        left, right = shapes.get("hada_w1_a", ()), shapes.get("hada_w1_b", ())
        return (right[1], left[0], None) if len(left) == len(right) == 2 else _UNKNOWN
    if kind == "lokr" and "lokr_t2" not in shapes:
        return _kronecker_sizes(shapes)
    return _UNKNOWN


def _lora_sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    down, up = shapes.get("down", ()), shapes.get("up", ())
    kernel = shapes["mid"][2:] if "mid" in shapes else down[2:]
    inputs = down[1] if len(down) >= 2 else None
    outputs = up[0] if len(up) >= 2 else None
    return inputs, outputs, kernel if len(down) >= 2 else None


def _kronecker_sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """A LoKr module's sizes are the products of its two factors' sizes."""
    inputs = outputs = 1
    kernel: tuple[int, ...] = ()
    for factor in ("lokr_w1", "lokr_w2"):
        whole = shapes.get(factor, ())
        if len(whole) >= 2:
            rows, columns, kernel = whole[0], whole[1], whole[2:] or kernel
        else:
            left, right = shapes.get(f"{factor}_a", ()), shapes.get(f"{factor}_b", ())
            if len(left) != 2 or len(right) != 2:
                return _UNKNOWN
            rows, columns = left[0], right[1]
        inputs, outputs = inputs * columns, outputs * rows
    return inputs, outputs, kernel

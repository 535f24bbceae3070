"""The update of one module as its tensors make it, and its norm without making it whole.

A LoRA's update is the product of two thin matrices: |s B A|² = s² <BᵀB, AAᵀ> costs rank² numbers
instead of inputs x outputs. A LoKr's is a Kronecker product, whose norm is the product of norms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tenner.lora_files.modules import LoraModule
from tenner.lora_files.numbers import Array

Read = Callable[[LoraModule, str], Array]
"""Returns a module's tensor by its role, in fp64."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """A module's update: the sum of products `left @ right` (factors), of Kronecker products
    (`kronecker`), and of whole matrices (`dense`). Each is [outputs, inputs x kernel]."""

    factors: tuple[tuple[Array, Array], ...] = ()
    kronecker: tuple[tuple[Array, Array], ...] = ()
    dense: tuple[Array, ...] = ()

    def norm(self) -> float:
        """The Frobenius norm, exact in fp64 but for cancellation between the terms."""
        if self.factors and not self.kronecker and not self.dense:
            left = np.concatenate([left for left, _ in self.factors], axis=1)
            right = np.concatenate([right for _, right in self.factors], axis=0)
            return _root(float(np.sum((left.T @ left) * (right @ right.T))))
        if self.kronecker and not self.factors and not self.dense:
            terms = [
                float(np.sum(a * c)) * float(np.sum(b * d))
                for a, b in self.kronecker
                for c, d in self.kronecker
            ]
            return _root(math.fsum(terms))
        return float(np.linalg.norm(self.whole()))

    def whole(self) -> Array:
        """The update as one matrix."""
        terms = [left @ right for left, right in self.factors]
        terms += [np.kron(left, right) for left, right in self.kronecker]
        return np.sum([*terms, *self.dense], axis=0)

    def distance(self, other: "Update | None") -> float:
        """|self - other|; an absent one is zero, and for one of another shape: NaN."""
        if other is None:
            return self.norm()
        both = Update(
            factors=(*self.factors, *((-left, right) for left, right in other.factors)),
            kronecker=(*self.kronecker, *((-left, right) for left, right in other.kronecker)),
            dense=(*self.dense, *(-each for each in other.dense)),
        )
        try:
            return both.norm()
        except ValueError:
            return math.nan


def _root(square: float) -> float:
    return math.sqrt(max(0.0, square))


def update_of(module: LoraModule, read: Read) -> Update | None:
    """The update; None for kinds whose update depends on the base (OFT, GLoRA, and (IA)³, which is
    `scaling_update`'s), for norms, and where tensors are missing. A DoRA's is that of its
    direction, without the magnitude."""
    if not module.is_whole:
        return None
    match module.kind:
        case "lora" | "dora":
            return Update(factors=(_lora(module, read),))
        case "loha":
            if factors := _loha_factors(module, read):
                return Update(factors=(factors,))
            return Update(dense=(module.scale * _loha(module, read),))
        case "lokr":
            return Update(kronecker=(_lokr(module, read),))
        case "full":
            diff = read(module, "diff")
            return Update(dense=(diff.reshape(diff.shape[0], -1),))
        case _:
            return None


def scaling_update(module: LoraModule, read: Read, weight: Array) -> Update | None:
    """The update of an (IA)³ over the base's `weight`: its rows, or its columns where the module
    scales inputs, times the module's numbers.

    It is held as one column, of the norms of these rows or columns times the numbers: as large as
    the update itself, and as far from another over the same weight.
    """
    if not module.is_whole:
        return None
    numbers = read(module, "ia3").reshape(-1)
    rows = weight.reshape(weight.shape[0], -1)
    if read(module, "on_input").any():
        rows = np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)
    if len(rows) != len(numbers):
        return None
    return Update(dense=((np.linalg.norm(rows, axis=1) * numbers)[:, None],))


def _lora(module: LoraModule, read: Read) -> tuple[Array, Array]:
    down, up = read(module, "down"), read(module, "up")
    up = up.reshape(up.shape[0], -1)
    if "mid" in module.tensors:
        mid = read(module, "mid")
        inner = np.einsum(
            "pqk,qi->pik", mid.reshape(*mid.shape[:2], -1), down.reshape(len(down), -1)
        )
        return module.scale * up, inner.reshape(len(mid), -1)
    return module.scale * up, down.reshape(down.shape[0], -1)


_MOST_COLUMNS = 128
"""Most columns of a LoHa as thin matrices, the product of its two ranks. Norms of matrices of 320
to 1,280 a side took, of the whole matrix's time on one core, 0.01 to 0.2 with up to 64 columns and
0.6 to 2.7 with 256."""


def _loha_factors(module: LoraModule, read: Read) -> tuple[Array, Array] | None:
    """The element-wise product of two thin products as one: each column of the first `left` times
    each of the second, and the rows of `right` alike. None in Tucker form and for large ranks."""
    ranks = [module.tensors[f"hada_w{half}_b"].shape[0] for half in ("1", "2")]
    if "hada_t1" in module.tensors or ranks[0] * ranks[1] > _MOST_COLUMNS:
        return None
    left, right = (
        [read(module, f"hada_w{half}_{side}") for half in ("1", "2")] for side in ("a", "b")
    )
    rights = [each.reshape(len(each), -1) for each in right]
    columns = np.einsum("or,os->ors", *left).reshape(len(left[0]), -1)
    rows = np.einsum("ri,si->rsi", *rights).reshape(columns.shape[1], -1)
    return module.scale * columns, rows


def _loha(module: LoraModule, read: Read) -> Array:
    halves: list[Array] = []
    for half in ("1", "2"):
        left, right = read(module, f"hada_w{half}_a"), read(module, f"hada_w{half}_b")
        if f"hada_t{half}" in module.tensors:
            core = read(module, f"hada_t{half}")
            core = core.reshape(*core.shape[:2], -1)
            whole = np.einsum("ijk,jr,ip->prk", core, right, left)
            halves.append(whole.reshape(whole.shape[0], -1))
        else:
            halves.append(left @ right.reshape(len(right), -1))
    return halves[0] * halves[1]


def _lokr(module: LoraModule, read: Read) -> tuple[Array, Array]:
    """The two factors; LyCORIS scales by alpha / rank only where one of them is made of two."""
    sides = [_lokr_side(module, read, f"lokr_w{number}") for number in ("1", "2")]
    return module.scale * sides[0], sides[1]


def _lokr_side(module: LoraModule, read: Read, name: str) -> Array:
    if name in module.tensors:
        whole = read(module, name)
        return whole.reshape(whole.shape[0], -1)
    left, right = read(module, f"{name}_a"), read(module, f"{name}_b")
    if name == "lokr_w2" and "lokr_t2" in module.tensors:
        core = read(module, "lokr_t2")
        core = core.reshape(*core.shape[:2], -1)
        whole = np.einsum("ijk,ip,jr->prk", core, left, right)
        return whole.reshape(whole.shape[0], -1)
    return left @ right

"""How much a LoRA changes its base: norms of the updates, and unchanged modules.

    python -m tenner.lora_files.measuring JOB.json

prints one line of JSON (`tenner.lora_files.measured.Measured`). It is run by the trainer's Python,
since it needs numpy, which tenner itself does not. Norms are Frobenius norms over the
modules of a network part, with alpha and rank in them.
"""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tenner.core.errors import SettingsError
from tenner.core.network_parts import Part
from tenner.lora_files.base_tensors import BaseWeight, BaseWeights, base_weights
from tenner.lora_files.measured import Measured, MeasureJob, PartMeasure
from tenner.lora_files.modules import LoraModule
from tenner.lora_files.numbers import (
    Array,
    num_tiny,
    num_zeros,
    read_numbers,
    rounded,
    sum_of_squares,
)
from tenner.lora_files.reading import LoraFile, read_lora_file
from tenner.lora_files.updates import Read, Update, scaling_update, update_of

_NOT_MOVING = ("alpha", "on_input", "rescale", "scalar", "magnitude")
"""Tensors that are not zero in a module that does nothing."""
_FROM_ZERO = ("up", "hada_w2_a", "hada_w1_a", "lokr_w2", "lokr_w2_b", "diff", "ia3")
"""Tensors that start at zero, of each kind of network; the first one of a module is measured."""
_MOST_READ = 6 << 30
"""Bytes of a base that are read for its norm: all of SDXL."""


def measure(job: MeasureJob) -> Measured:
    """Measure a LoRA. Raises SettingsError or OSError where its file cannot be read."""
    file = read_lora_file(Path(job.path))
    start = read_lora_file(Path(job.start)) if job.start else None
    reference = read_lora_file(Path(job.reference)) if job.reference else None
    base: BaseWeights = {}
    problem = ""
    if job.base:
        try:
            base = base_weights(Path(job.base), job.family or file.family or "sd1")
        except (SettingsError, OSError, KeyError, ValueError) as error:
            problem = str(error).partition("\n")[0]
    parts = tuple(
        _measured(part, modules, base, _by_module(start), _by_module(reference))
        for part, modules in file.parts.items()
    )
    return Measured(parts=parts, base_problem=problem)


Modules = dict[tuple[Part, str], LoraModule]


def _by_module(file: LoraFile | None) -> Modules | None:
    return None if file is None else {(each.part, each.plain_path): each for each in file.modules}


@dataclass(frozen=True, kw_only=True)
class _One:
    """A module's share of its part's measure: norms, and counts of numbers."""

    is_unchanged: bool
    norm: float | None
    moved: float = 0.0
    start_norm: float = 0.0
    reference_norm: float = 0.0
    lost: float = 0.0
    num_numbers: int = 0
    num_zeros: int = 0
    num_tiny: int = 0
    dtype: str = ""


def _measured(
    part: Part,
    modules: tuple[LoraModule, ...],
    base: BaseWeights,
    start: Modules | None,
    reference: Modules | None,
) -> PartMeasure:
    ones = [_one(each, base.get((part, each.plain_path)), start, reference) for each in modules]
    known = [each for each, one in zip(modules, ones, strict=True) if one.norm is not None]
    on_base = [base[key] for each in known if (key := (part, each.plain_path)) in base]
    numbers = sum(one.num_numbers for one in ones) or 1
    before_saving = _norm(one.reference_norm for one in ones)
    return PartMeasure(
        part=part,
        num_modules=len(modules),
        num_unchanged=sum(one.is_unchanged for one in ones),
        num_measured=len(known),
        norm=_norm(one.norm or 0.0 for one in ones),
        num_on_base=len(on_base),
        base_norm=_base_norm(on_base) if on_base else None,
        moved=_norm(one.moved for one in ones) if start is not None else None,
        start_norm=_norm(one.start_norm for one in ones) if start is not None else None,
        zero_share=sum(one.num_zeros for one in ones) / numbers,
        tiny_share=sum(one.num_tiny for one in ones) / numbers,
        dtype=next((one.dtype for one in ones if one.dtype), ""),
        lost=_norm(one.lost for one in ones) / before_saving if before_saving else None,
    )


def _one(
    module: LoraModule,
    weight: BaseWeight | None,
    start: Modules | None,
    reference: Modules | None,
) -> _One:
    """Measure one module. Its tensors are released afterwards: a part may have gigabytes of
    them."""
    read = _numbers
    found = _One(is_unchanged=_is_unchanged(module, start, read), norm=None)
    role = next((role for role in _FROM_ZERO if role in module.tensors), None)
    if role is not None:
        values, dtype = read(module, role), module.tensors[role].dtype
        found = replace(
            found,
            num_numbers=values.size,
            num_zeros=num_zeros(values),
            num_tiny=num_tiny(values, dtype),
            dtype=dtype,
        )
    update = _update(module, weight, read)
    if update is None:
        return found
    found = replace(found, norm=update.norm())
    if start is not None:
        other = _other(module, weight, start, read)
        before = other.norm() if other else 0.0
        found = replace(found, moved=update.distance(other), start_norm=before)
    exact = _other(module, weight, reference, read) if reference is not None else None
    if exact is not None:
        found = replace(found, lost=update.distance(exact), reference_norm=exact.norm())
    return found


def _numbers(module: LoraModule, role: str) -> Array:
    return read_numbers(module.file, module.tensors[role])


def _other(
    module: LoraModule, weight: BaseWeight | None, others: Modules, read: Read
) -> Update | None:
    other = others.get((module.part, module.plain_path))
    return None if other is None else _update(other, weight, read)


def _update(module: LoraModule, weight: BaseWeight | None, read: Read) -> Update | None:
    """The module's update; of an (IA)³ by the base's weight, where that is known."""
    if module.kind != "ia3":
        return update_of(module, read)
    if weight is None:
        return None
    return scaling_update(module, read, read_numbers(weight.path, weight.entry))


def _norm(norms: Iterable[float]) -> float:
    return math.sqrt(math.fsum(each * each for each in norms))


def _base_norm(weights: Sequence[BaseWeight]) -> float:
    """Of weights that take long to read, by those of evenly chosen modules: FLUX.1's are 24 GB."""
    ordered = sorted(weights, key=lambda each: (str(each.path), each.entry.start))
    num_bytes = sum(each.entry.end - each.entry.start for each in ordered)
    read = ordered[:: math.ceil(num_bytes / _MOST_READ) or 1]
    share = sum(map(_num_numbers, read)) / sum(map(_num_numbers, ordered))
    squares = math.fsum(sum_of_squares(each.path, each.entry) for each in read)
    return math.sqrt(squares / share)


def _num_numbers(weight: BaseWeight) -> int:
    return math.prod(weight.entry.shape)


def _is_unchanged(module: LoraModule, start: Modules | None, read: Read) -> bool:
    """Whether the module's update is that of the start: zero, or that of the start's file.

    The start's numbers are rounded to the precision of the file first, as saving did.
    """
    if start is None:
        return _does_nothing(module, read)
    other = start.get((module.part, module.plain_path))
    if other is None:
        return _does_nothing(module, read)
    if not math.isclose(module.scale, other.scale, rel_tol=1e-3):
        return False
    roles = [role for role in module.tensors if role != "alpha"]
    return all(
        role in other.tensors
        and other.tensors[role].shape == module.tensors[role].shape
        and bool(
            np.array_equal(
                rounded(read(other, role), module.tensors[role].dtype), read(module, role)
            )
        )
        for role in roles
    )


def _does_nothing(module: LoraModule, read: Read) -> bool:
    moving = [role for role in module.tensors if role not in _NOT_MOVING]
    if module.kind in ("lora", "dora", "loha", "glora"):
        return module.is_whole and any(not read(module, role).any() for role in moving)
    update = update_of(module, read)
    if update is not None:
        return update.norm() == 0.0
    return bool(moving) and not any(read(module, role).any() for role in moving)


def main(argv: list[str]) -> int:
    """Measure the job in the file `argv[0]`; returns 1, with the reason on stderr, on failure."""
    try:
        job = MeasureJob(**json.loads(Path(argv[0]).read_text(encoding="utf-8")))
        print(measure(job).to_json())
    except (SettingsError, OSError, ValueError, TypeError, MemoryError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

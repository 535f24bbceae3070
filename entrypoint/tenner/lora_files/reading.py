"""A LoRA file taken apart: modules, rank, alpha, kind, naming, and the family it was made for.

Only the head and the alphas (a few bytes each) are read, with the standard library alone, so that
a file of any size answers in milliseconds on any machine. Files that other people's programs made
are expected: what is not known is listed, never a traceback.
"""

import json
import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from tenner.core.errors import SettingsError
from tenner.core.family import Family
from tenner.core.messages import msg
from tenner.core.network_parts import PART_NAMES, Part
from tenner.core.safetensors_head import read_safetensors_header
from tenner.lora_files.family import family_of
from tenner.lora_files.modules import LoraModule, TensorEntry, is_whole, kind_of, rank_of, sizes_of
from tenner.lora_files.names import Kind, Naming, TensorName, parse_tensor_name

FILE_NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""What PEFT and diffusers call the file in a folder of theirs."""


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """What a LoRA file contains. `family` is None where it is none that tenner trains, or unknown;
    `architecture` is then still named where it is known. `other_tensors` belong to no module."""

    path: Path
    num_bytes: int
    metadata: Mapping[str, str]
    dtypes: Mapping[str, int]
    naming: Naming
    modules: tuple[LoraModule, ...]
    other_tensors: tuple[str, ...]
    family: Family | None
    family_from: str
    """The evidence of the family: shapes, names of blocks, or which entry of the metadata."""
    architecture: str

    @property
    def parts(self) -> dict[Part, tuple[LoraModule, ...]]:
        """The modules of each network part, in the order of `PART_NAMES`."""
        found: dict[Part, tuple[LoraModule, ...]] = {}
        for part in PART_NAMES:
            modules = tuple(each for each in self.modules if each.part == part)
            if modules:
                found[part] = modules
        return found

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of network in the file, the most frequent first."""
        counted: Counter[Kind] = Counter(each.kind for each in self.modules)
        return tuple(kind for kind, _ in counted.most_common())

    @property
    def num_incomplete(self) -> int:
        return sum(not each.is_whole for each in self.modules)

    def ranks(self, *, convolutions: bool = False) -> tuple[int, ...]:
        """The ranks of linear layers and 1x1 convolutions, or of the larger convolutions; the most
        frequent first."""
        ranks = Counter(each.rank for each in self._like(convolutions) if each.rank is not None)
        return tuple(rank for rank, _ in ranks.most_common())

    def alphas(self, *, convolutions: bool = False) -> tuple[float, ...]:
        """The same for alpha. A module without one counts as alpha = rank, as all programs do."""
        alphas = Counter(
            float(each.rank) if each.alpha is None else each.alpha
            for each in self._like(convolutions)
            if each.rank is not None
        )
        return tuple(alpha for alpha, _ in alphas.most_common())

    def _like(self, convolutions: bool) -> Iterator[LoraModule]:
        for each in self.modules:
            if each.is_convolution == convolutions:
                yield each


def read_lora_file(path: Path) -> LoraFile:
    """The LoRA in the file, or in a folder that PEFT or diffusers wrote.

    Raises SettingsError where there is nothing, or something that is no LoRA; OSError.
    """
    path = _file_in(path)
    metadata, entries = read_head(path)
    grouped: dict[str, list[tuple[TensorName, TensorEntry]]] = {}
    others: list[str] = []
    for entry in entries:
        name = parse_tensor_name(entry.name)
        if name is None:
            others.append(entry.name)
        else:
            grouped.setdefault(name.module, []).append((name, entry))
    config = _adapter_config(path, metadata)
    with path.open("rb") as file:
        every = [_module(path, file, members, config) for members in grouped.values()]
    modules = tuple(each for each in every if each.kind != "unknown")
    if not modules:
        raise _not_a_lora(path, [entry.name for entry in entries])
    for each in every:
        if each.kind == "unknown":
            others += [tensor.name for tensor in each.tensors.values()]
    family, known_by, architecture = family_of(modules, metadata)
    naming: Counter[Naming] = Counter(members[0][0].naming for members in grouped.values())
    return LoraFile(
        path=path,
        num_bytes=path.stat().st_size,
        metadata=metadata,
        dtypes=Counter(entry.dtype for entry in entries),
        naming=naming.most_common(1)[0][0],
        modules=modules,
        other_tensors=tuple(others),
        family=family,
        family_from=known_by,
        architecture=architecture,
    )


def read_head(path: Path) -> tuple[dict[str, str], list[TensorEntry]]:
    """(metadata, tensors) of a safetensors file. Raises SettingsError, OSError."""
    try:
        header = read_safetensors_header(path)
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError):
        raise _damaged(path, msg("it is no table of tensors")) from None
    metadata = _metadata(header.pop("__metadata__", {}))
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    return metadata, [_entry(path, name, each, start) for name, each in header.items()]


def _damaged(path: Path, why: str) -> SettingsError:
    text = msg("{path} has a damaged head: {why}", path=path, why=why)
    return SettingsError(text, fix=msg("download it again, or save it again"))


def _file_in(path: Path) -> Path:
    if path.is_dir():
        named = [path / name for name in FILE_NAMES if (path / name).is_file()]
        found = named or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            what = (
                msg("{n} .safetensors files", n=len(found))
                if found
                else msg("no .safetensors file")
            )
            raise SettingsError(
                msg("the folder {path} holds {what}", path=path, what=what),
                fix=msg("name the LoRA's file itself"),
            )
        return found[0]
    if not path.is_file():
        raise SettingsError(
            msg("there is no file {path}", path=path), fix=msg("check the path of the LoRA")
        )
    return path


def _entry(path: Path, name: str, entry: Any, data_start: int) -> TensorEntry:
    """The head's entry, held to the format. Raises SettingsError."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
        if not isinstance(dtype, str) or any(
            not isinstance(each, int) or each < 0 for each in numbers
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise _damaged(
            path, msg("the entry of {name} is not understood", name=name[:100])
        ) from None
    return TensorEntry(
        name=name,
        dtype=dtype,
        shape=tuple(cast("list[int]", shape)),
        start=data_start + begin,
        end=data_start + end,
    )


def _metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict):
        return {}
    entries = cast("dict[Any, Any]", found)
    return {
        str(key): value if isinstance(value, str) else json.dumps(value)
        for key, value in entries.items()
    }


def _adapter_config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's settings: in `adapter_config.json` beside the file, or in diffusers' metadata."""
    beside = path.with_name("adapter_config.json")
    try:
        if beside.is_file():
            found = json.loads(beside.read_text(encoding="utf-8"))
        else:
            found = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _module(
    path: Path,
    file: BinaryIO,
    members: Sequence[tuple[TensorName, TensorEntry]],
    config: Mapping[str, Any],
) -> LoraModule:
    first = members[0][0]
    tensors = {name.role: entry for name, entry in members}
    kind, rank = kind_of(tensors), rank_of(tensors)
    inputs, outputs, kernel = sizes_of(kind, tensors)
    alpha = _scalar(file, tensors["alpha"]) if "alpha" in tensors else None
    if alpha is None and kind in ("lora", "dora") and rank:
        alpha = _configured_alpha(config, first, rank)
    return LoraModule(
        file=path,
        name=first.module,
        part=first.part,
        path=first.path,
        kind=kind,
        rank=rank,
        alpha=alpha,
        in_features=inputs,
        out_features=outputs,
        kernel=kernel,
        is_whole=is_whole(kind, tensors),
        tensors=tensors,
    )


_SCALARS = {"F16": "<e", "F32": "<f", "F64": "<d", "I64": "<q", "I32": "<i", "I16": "<h"}


def _scalar(file: BinaryIO, entry: TensorEntry) -> float | None:
    """The one number of a tensor; None where it holds none, or is not finite."""
    layout = "<f" if entry.dtype == "BF16" else _SCALARS.get(entry.dtype)
    if layout is None or math.prod(entry.shape) != 1:
        return None
    size = 2 if entry.dtype == "BF16" else struct.calcsize(layout)
    file.seek(entry.start)
    raw = file.read(size)
    if len(raw) != size:
        return None
    raw = b"\0\0" + raw if entry.dtype == "BF16" else raw  # bf16 is the upper half of an fp32
    value = float(struct.unpack(layout, raw)[0])
    return value if math.isfinite(value) else None


def _configured_alpha(config: Mapping[str, Any], name: TensorName, rank: int) -> float | None:
    """A module's alpha by PEFT's settings. rsLoRA divides by the root of the rank."""
    prefix = f"{name.part}."
    own = {
        key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)
    } or config
    alpha = own.get("lora_alpha")
    patterns = own.get("alpha_pattern")
    if isinstance(patterns, dict):
        for pattern, value in cast("dict[str, Any]", patterns).items():
            if name.path == pattern or name.path.endswith(f".{pattern}"):
                alpha = value
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        return None
    return float(alpha) * math.sqrt(rank) if own.get("use_rslora") else float(alpha)


def _not_a_lora(path: Path, names: Sequence[str]) -> SettingsError:
    """What a safetensors file without any adapter is instead."""

    def has(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in names)

    if not names:
        return SettingsError(
            msg("{path} holds no tensors", path=path), fix=msg("save or download it again")
        )
    if has("model.diffusion_model.", "double_blocks.", "conditioner.embedders."):
        return SettingsError(
            msg("{path} is a base model, not a LoRA", path=path), fix=msg("name it as base_model")
        )
    if has("emb_params", "clip_l", "clip_g", "string_to_param"):
        fix = msg("a textual inversion is used in prompts, and is not trained further here")
        return SettingsError(msg("{path} is a textual inversion, not a LoRA", path=path), fix=fix)
    if has("first_stage_model.", "decoder.", "encoder."):
        return SettingsError(
            msg("{path} is a VAE, not a LoRA", path=path), fix=msg("name it as vae")
        )
    if has("lllite_", "control_model."):
        return SettingsError(
            msg("{path} is a ControlNet, not a LoRA", path=path), fix=msg("take a LoRA")
        )
    shown = ", ".join(name[:60] for name in names[:3])
    text = msg(
        "{path} is no LoRA of a known kind: it holds {n} tensors such as {shown}",
        path=path,
        n=len(names),
        shown=shown,
    )
    return SettingsError(text, fix=msg("take a LoRA of kohya, PEFT, diffusers or LyCORIS names"))

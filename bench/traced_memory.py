"""The peak of a training step's memory, traced on fake tensors, against the plan's model.

    python -m bench.traced_memory [--families sd1 sdxl] [--batches 1 4] [--ranks 8 128]
    python -m bench.traced_memory --stored   # the rows of traced.json, nothing is traced

A step of the built-in trainer with its LoRA (forward and backward, bf16; of the U-Net alone, or
with its text encoders trained too) is run on tensors that have sizes and no contents, and every
storage is followed. The frozen weights, and the LoRA with its gradients, are counted apart from
what the step itself takes at its peak. Not in it: CUDA's context, workspaces of libraries, the
allocator's rounding, and what kernels of a card take beside what those of a CPU take (flash
attention's sums in fp32). After it comes the update, with AdamW8bit: what it copies so that it can
be undone is followed likewise, and the larger of both counts. With `--store` rows are added to
`traced.json`, to which the model's numbers are fitted and by which a test holds them.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.engine_ops import CONFIGS
from tenner.engines.native import small_maps
from tenner.engines.native.clip import ClipText, parse_clip_config
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.network import adapts_unet
from tenner.engines.native.parts import LoraPlan, Parts
from tenner.engines.native.text import TextEncoders
from tenner.engines.native.undo import Undo
from tenner.engines.native.unet import Unet
from tenner.engines.native.unet_config import parse_unet_config
from tenner.optimizers import state_bytes
from tenner.planning.vram import Load, memory_parts

SIDES = {"sd1": 512, "sdxl": 1024}
LOOK_EVERY = 4
"""Operations between two looks at which storages are gone."""


class Storages(TorchDispatchMode):
    """Follows all storages that operations make; `peak` bytes were there at once."""

    def __init__(self) -> None:
        super().__init__()
        self._here: dict[int, tuple[StorageWeakRef, int]] = {}
        self._now = self._count = 0
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                self._add(each.untyped_storage())
        self._count += 1
        if self._count % LOOK_EVERY == 0:
            self._look()
        self.peak = max(self.peak, self._now)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        known = self._here.get(storage._cdata)
        if known is not None and not known[0].expired():
            return
        if known is not None:
            self._now -= known[1]
        self._here[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._now += storage.nbytes()

    def _look(self) -> None:
        for key in [key for key, (reference, _) in self._here.items() if reference.expired()]:
            self._now -= self._here.pop(key)[1]

    def ignore(self, tensors: list[torch.Tensor]) -> None:
        """Count tensors that were there before as nothing."""
        for each in tensors:
            storage = each.untyped_storage()
            self._here[storage._cdata] = (StorageWeakRef(storage), 0)


@dataclass(frozen=True, kw_only=True)
class Traced:
    """Bytes by what they are for."""

    weights: int
    lora: int
    step: int


class Captions:
    """Stand-in for a tokenizer: token ids of 77 words, without contents."""

    num_chunks, chunk, eos = 1, 75, 49407

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        return torch.empty(len(captions), 77, dtype=torch.long)


def text_shapes(family: str) -> list[tuple[dict, dict[str, torch.Size]]]:
    """Configuration and tensors of each text encoder, by the names that the trainer reads."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    found = []
    for part in ("text_encoder", "text_encoder_2")[: 2 if family == "sdxl" else 1]:
        config = json.loads(CONFIGS.read_text())[family][part]
        with torch.device("meta"):
            model = CLIPTextModelWithProjection(CLIPTextConfig(**config))
        shapes = {
            name.removeprefix("text_model."): value.shape
            for name, value in model.state_dict().items()
        }
        if not found:
            shapes.pop("text_projection.weight")
        found.append((config, shapes))
    return found


def text_encoders(
    family: str, bank: LoraBank, rank: int, checkpointing: bool
) -> tuple[TextEncoders, int]:
    """Text encoders with their LoRA, and the bytes of their weights."""
    half, cpu, encoders, projection, num_bytes = torch.bfloat16, torch.device("cpu"), [], None, 0
    for number, (config, shapes) in enumerate(text_shapes(family)):
        tensors = {name: torch.empty(shape, dtype=half) for name, shape in shapes.items()}
        num_bytes += sum(each.nbytes for each in tensors.values())
        projection = tensors.pop("text_projection.weight", None)
        segment = f"te{number}"
        plan = LoraPlan(bank=bank, segment=segment, name_of=str, dim=rank, alpha=1.0)
        parts = Parts(tensors, device=cpu, dtype=half, plan=plan, adapts=adapts_text)
        clip = ClipText(parse_clip_config(config), parts)
        clip.checkpointing = checkpointing
        encoders.append((Captions(), clip))
    return TextEncoders(family, encoders, projection, None, cpu), num_bytes  # pyright: ignore[reportArgumentType]


def adapts_text(name: str) -> bool:
    """Attention and MLP, as in the trainer."""
    return ".self_attn." in name or ".mlp." in name


def trace(
    family: str,
    *,
    batch: int,
    rank: int,
    checkpointing: bool,
    text: bool = False,
    conv_dim: int = 0,
    plain: bool = False,
) -> Traced:
    """One step at the family's native side; `plain` is the LoRA as dropouts have it."""
    from diffusers import UNet2DConditionModel

    small_maps.MOST_POSITIONS = 0  # a way of a CPU, not of a card
    config = json.loads(CONFIGS.read_text())[family]["unet"]
    with torch.device("meta"):
        model = UNet2DConditionModel(**config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    size, half, cpu = SIDES[family] // 8, torch.bfloat16, torch.device("cpu")
    with FakeTensorMode():
        tensors = {name: torch.empty(shape, dtype=half) for name, shape in shapes.items()}
        bank = LoraBank()
        plan = LoraPlan(
            bank=bank,
            segment="unet",
            name_of=str,
            dim=rank,
            alpha=1.0,
            conv_dim=conv_dim or None,
            uses_autograd=plain,
        )
        parsed = parse_unet_config(config)
        adapts = lambda name: adapts_unet(name, conv_dim > 0)  # noqa: E731
        parts = Parts(tensors, device=cpu, dtype=half, plan=plan, adapts=adapts)
        unet = Unet(parsed, parts)
        unet.recompute(None if checkpointing else 0)
        encoders, text_bytes = None, 0
        if text:
            encoders, text_bytes = text_encoders(family, bank, rank, checkpointing)
        bank.allocate(cpu, half)
        shape = (batch, 4, size, size)
        latents = torch.empty(shape, dtype=half).to(memory_format=torch.channels_last)
        context = torch.empty(batch, 77, parsed.context_dim, dtype=half)
        added = torch.empty(batch, 2816, dtype=half) if parsed.is_sdxl else None
        times = torch.empty(batch, dtype=torch.long)
        bank.begin_pass(first=True)
        storages = Storages()
        flat = [bank.weights, bank.grads, bank.compute, bank.pass_grads]
        storages.ignore([*_weights(unet), *_weights(encoders), *flat])
        with storages:
            if encoders:
                encoded = encoders.encode([""] * batch)
                context = encoded.context
                if encoded.pooled is not None and added is not None:
                    added = torch.cat([encoded.pooled, added[:, encoded.pooled.shape[1] :]], dim=1)
            unet(latents, times, context, added).float().square().mean().backward()
    return Traced(
        weights=sum(shape.numel() for shape in shapes.values()) * 2 + text_bytes,
        lora=sum(each.nbytes for each in flat),
        step=storages.peak,
    )


def _weights(model: object, seen: set[int] | None = None) -> list[torch.Tensor]:
    """All tensors that a model's objects hold."""
    seen = set() if seen is None else seen
    if id(model) in seen:
        return []
    seen.add(id(model))
    if isinstance(model, torch.Tensor):
        return [model]
    if isinstance(model, dict):
        inner = list(model.values())
    elif isinstance(model, list | tuple):
        inner = list(model)
    else:
        inner = list(vars(model).values()) if hasattr(model, "__dict__") else []
    return [tensor for each in inner for tensor in _weights(each, seen)]


class EightBits(torch.optim.Optimizer):
    """Holds the states of AdamW8bit, and changes nothing."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__([torch.nn.Parameter(weights)], {})
        size = weights.numel()
        states = {f"state{each}": torch.empty(size, dtype=torch.uint8) for each in (1, 2)}
        scales = {f"absmax{each}": torch.empty(-(-size // 256)) for each in (1, 2)}
        self.state[self.param_groups[0]["params"][0]] = {"step": 1, **states, **scales}


def trace_update(num_parameters: int) -> int:
    """Bytes that an update of AdamW8bit takes at its peak besides weights and states."""
    with FakeTensorMode():
        weights = torch.empty(num_parameters)
        optimizer = EightBits(weights)
        (state,) = optimizer.state.values()
        held = [each for each in state.values() if isinstance(each, torch.Tensor)]
        undo, storages = Undo(optimizer, weights), Storages()
        storages.ignore([weights, *held])
        with storages:
            snapshot = undo.snapshot()
            undo.restore_unless(snapshot, torch.empty((), dtype=torch.bool))
    return storages.peak


STORED = Path(__file__).with_name("traced.json")


def main() -> None:
    """Print a table of traces beside the plan's model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", default=["sd1", "sdxl"], choices=list(SIDES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 128])
    parser.add_argument("--text", action="store_true", help="with the text encoders trained too")
    parser.add_argument("--conv-dim", type=int, default=0, help="convolutions adapted too")
    parser.add_argument("--plain", action="store_true", help="the LoRA as dropouts have it")
    parser.add_argument("--store", action="store_true", help="add the rows to traced.json")
    parser.add_argument("--stored", action="store_true", help="print the rows of traced.json")
    options = parser.parse_args()
    print(
        "| family | rank | batch | checkpointing | text encoders | weights | LoRA | step | update"
        " | traced | model | error |"
    )
    print("| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    if options.stored:
        for row in stored_rows():
            print_row(row)
        return
    cases = itertools.product(
        options.families,
        options.ranks,
        options.batches,
        (False, True),
        (False, True) if options.text else (False,),
    )
    kind = (options.conv_dim, options.plain)
    known = {
        tuple(list(row.values())[:5])
        for row in stored_rows()
        if options.store and (row.get("conv_dim", 0), row.get("plain", False)) == kind
    }
    for case in cases:
        if case in known:
            continue
        family, rank, batch, saving, text = case
        traced = trace(
            family,
            batch=batch,
            rank=rank,
            checkpointing=saving,
            text=text,
            conv_dim=options.conv_dim,
            plain=options.plain,
        )
        names = ("family", "rank", "batch", "checkpointing", "text")
        row = {**dict(zip(names, case, strict=True)), **asdict(traced)}
        row |= {"conv_dim": options.conv_dim} if options.conv_dim else {}
        row |= {"plain": True} if options.plain else {}
        if options.store:
            rows = [json.dumps(each) for each in (*stored_rows(), row)]
            STORED.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
        print_row(row)


def stored_rows() -> list[dict]:
    """What was traced once: `weights`, `lora` and `step` in bytes."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else []


def traced_gb(row: dict) -> float:
    """All that was traced, with the states of AdamW8bit beside the LoRA."""
    lora = row["lora"] * (12 + state_bytes("AdamW8bit")) / 12
    return (row["weights"] + lora + max(row["step"], update_bytes(row))) / 1e9


def update_bytes(row: dict) -> int:
    """Of a row's LoRA, whose weights and gradients take 12 bytes for each number."""
    return trace_update(row["lora"] // 12)


def modelled_gb(row: dict) -> float:
    """The plan's estimate for the same, without CUDA's context and reserve."""
    load = Load(
        family=row["family"],
        pixels=SIDES[row["family"]] ** 2,
        network_dim=row["rank"],
        text_encoder_trained=row["text"],
        conv_dim=row.get("conv_dim", 0),
        plain_lora=row.get("plain", False),
        engine="native",
    )
    parts = memory_parts(load, batch_size=row["batch"], gradient_checkpointing=row["checkpointing"])
    return sum(gb for name, gb in parts.items() if name not in ("context", "reserve"))


def print_row(row: dict) -> None:
    """A row in GB."""
    whole, model = traced_gb(row), modelled_gb(row)
    lora = row["lora"] * (12 + state_bytes("AdamW8bit")) / 12
    passes, update = row["step"] / 1e9, update_bytes(row) / 1e9
    cells = (row["weights"] / 1e9, lora / 1e9, passes, update, whole, model)
    numbers = " | ".join(f"{each:.2f}" for each in cells)
    words = ["on" if row[name] else "off" for name in ("checkpointing", "text")]
    name = row["family"] + (f", conv_dim {row['conv_dim']}" if row.get("conv_dim") else "")
    name += ", dropouts" if row.get("plain") else ""
    case = f"| {name} | {row['rank']} | {row['batch']} | {' | '.join(words)} |"
    print(f"{case} {numbers} | {model / whole - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    main()

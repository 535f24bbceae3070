"""The peak of a training step's memory, traced on fake tensors, against the plan's model.

    python -m bench.traced_memory [--families sd1 sdxl] [--batches 1 4] [--ranks 8 128]
    python -m bench.traced_memory --stored   # the rows of traced.json, nothing is traced
    python -m bench.traced_memory --blocks 9 20   # so many of the U-Net's blocks recomputed
    python -m bench.traced_memory --levels   # what each level of recomputation frees and costs

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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench.engine_ops import CONFIGS, OperationCounter, text_encoders
from tenner.engines.native import small_maps
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.network import adapts_unet
from tenner.engines.native.parts import LoraPlan, Parts
from tenner.engines.native.recomputation import Unit
from tenner.engines.native.undo import Undo
from tenner.engines.native.unet import Resnet, Unet
from tenner.engines.native.unet_config import parse_unet_config
from tenner.optimizers import state_bytes
from tenner.planning.checkpointing import LEVELS, Shares
from tenner.planning.vram import Load, memory_parts

SIDES = {"sd1": 512, "sd2": 512, "sdxl": 1024}
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


def trace(
    family: str,
    *,
    batch: int,
    rank: int,
    checkpointing: bool,
    blocks: int | None = None,
    text: bool = False,
    conv_dim: int = 0,
    plain: bool = False,
) -> Traced:
    """One step at the family's native side; `plain` is the LoRA as dropouts have it, `blocks` how
    many of the U-Net's blocks are recomputed with checkpointing (None: all)."""
    half, cpu, shapes = torch.bfloat16, torch.device("cpu"), unet_shapes(family)
    with FakeTensorMode():
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
        unet = fake_unet(family, shapes, plan)
        unet.recompute(blocks if checkpointing else 0)
        encoders, text_bytes = None, 0
        if text:
            whole = checkpointing and blocks is None
            encoders, text_bytes = text_encoders(family, bank, rank, whole)
        bank.allocate(cpu, half)
        latents, times, context, added = fake_inputs(family, unet, batch)
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


def unet_shapes(family: str) -> dict[str, torch.Size]:
    """Of the U-Net's tensors, by diffusers' names."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        model = UNet2DConditionModel(**json.loads(CONFIGS.read_text())[family]["unet"])
    return {name: value.shape for name, value in model.state_dict().items()}


def fake_unet(family: str, shapes: Mapping[str, torch.Size], plan: LoraPlan) -> Unet:
    """The trainer's U-Net with its LoRA; under fake tensors."""
    small_maps.MOST_POSITIONS = 0  # a way of a CPU, not of a card
    half, cpu = torch.bfloat16, torch.device("cpu")
    tensors = {name: torch.empty(shape, dtype=half) for name, shape in shapes.items()}
    adapts = lambda name: adapts_unet(name, plan.conv_dim is not None)  # noqa: E731
    parts = Parts(tensors, device=cpu, dtype=half, plan=plan, adapts=adapts)
    return Unet(parse_unet_config(json.loads(CONFIGS.read_text())[family]["unet"]), parts)


def fake_inputs(
    family: str, unet: Unet, batch: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Latents, timesteps, the text and SDXL's sizes, at the family's side."""
    size, half = SIDES[family] // 8, torch.bfloat16
    latents = torch.empty((batch, 4, size, size), dtype=half)
    latents = latents.to(memory_format=torch.channels_last)
    context = torch.empty(batch, 77, unet.config.context_dim, dtype=half)
    added = torch.empty(batch, 2816, dtype=half) if unet.config.is_sdxl else None
    return latents, torch.empty(batch, dtype=torch.long), context, added


class AttentionFlops(TorchDispatchMode):
    """Counts those of attention, which torch's own counter leaves out on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "attention" in function.overloadpacket.__name__:
            self.number += 4 * args[0].numel() * args[1].shape[-2]
        return function(*args, **(kwargs or {}))


def costs_of_blocks(family: str) -> list[tuple[int, int]]:
    """Floating point operations and kernels of each block's forward pass, in the order in which
    they are recomputed; one image, rank 32."""
    found: dict[Unit, tuple[int, int]] = {}

    def run(function: Callable[..., torch.Tensor], *inputs: Any) -> torch.Tensor:
        """As the U-Net's own, which gives a residual block or a function and its block."""
        block = function if isinstance(function, Resnet) else inputs[0]
        products, kernels = FlopCounterMode(display=False), OperationCounter()
        with products, kernels, AttentionFlops() as attention:
            answer = function(*inputs)
        found[block.unit] = (products.get_total_flops() + attention.number, kernels.num_kernels)
        return answer

    shapes = unet_shapes(family)
    with FakeTensorMode():
        bank = LoraBank()
        plan = LoraPlan(bank=bank, segment="unet", name_of=str, dim=32, alpha=1.0)
        unet = fake_unet(family, shapes, plan)
        bank.allocate(torch.device("cpu"), torch.bfloat16)
        unet.recompute(None)
        unet._checkpointed = run
        bank.begin_pass(first=True)
        unet(*fake_inputs(family, unet, 1))
    return [found[unit] for unit in unet.units]


def levels(family: str) -> list[Shares]:
    """What recomputing so many blocks frees and costs, from the stored rows of rank 32 and batch 1,
    and the counted blocks; all as shares of what recomputing all of them does."""
    costs = costs_of_blocks(family)
    steps = {
        row.get("blocks", len(costs) if row["checkpointing"] else 0): row["step"]
        for row in stored_rows()
        if (row["family"], row["rank"], row["batch"], row["text"]) == (family, 32, 1, False)
        and not row.get("conv_dim")
        and not row.get("plain")
    }
    work, kernels = (sum(column) for column in zip(*costs, strict=True))
    most, least = steps[0], steps[len(costs)]
    return [
        Shares(
            blocks=number,
            memory=round((most - steps[number]) / (most - least), 4),
            work=round(sum(each for each, _ in costs[:number]) / work, 4),
            kernels=round(sum(each for _, each in costs[:number]) / kernels, 4),
        )
        for number in (each.blocks for each in LEVELS[family])  # pyright: ignore[reportArgumentType]
    ]


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
    parser.add_argument("--blocks", nargs="+", type=int, help="so many recomputed, instead")
    parser.add_argument("--levels", action="store_true", help="what each level frees and costs")
    options = parser.parse_args()
    if options.levels:
        for family in options.families:
            print(family, *levels(family), sep="\n")
        return
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
        (True,) if options.blocks else (False, True),
        (False, True) if options.text else (False,),
        options.blocks or (None,),
    )
    kind = (options.conv_dim, options.plain)
    known = {
        (*list(row.values())[:5], row.get("blocks"))
        for row in stored_rows()
        if options.store and (row.get("conv_dim", 0), row.get("plain", False)) == kind
    }
    for case in cases:
        if case in known:
            continue
        family, rank, batch, saving, text, blocks = case
        traced = trace(
            family,
            batch=batch,
            rank=rank,
            checkpointing=saving,
            blocks=blocks,
            text=text,
            conv_dim=options.conv_dim,
            plain=options.plain,
        )
        names = ("family", "rank", "batch", "checkpointing", "text")
        row = {**dict(zip(names, case[:5], strict=True)), **asdict(traced)}
        row |= {} if blocks is None else {"blocks": blocks}
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
    parts = memory_parts(
        load,
        batch_size=row["batch"],
        gradient_checkpointing=row["checkpointing"],
        checkpointed_blocks=row.get("blocks"),
    )
    return sum(gb for name, gb in parts.items() if name not in ("context", "reserve"))


def print_row(row: dict) -> None:
    """A row in GB."""
    whole, model = traced_gb(row), modelled_gb(row)
    lora = row["lora"] * (12 + state_bytes("AdamW8bit")) / 12
    passes, update = row["step"] / 1e9, update_bytes(row) / 1e9
    cells = (row["weights"] / 1e9, lora / 1e9, passes, update, whole, model)
    numbers = " | ".join(f"{each:.2f}" for each in cells)
    words = ["on" if row[name] else "off" for name in ("checkpointing", "text")]
    if "blocks" in row:
        words[0] = f"{row['blocks']} blocks"
    name = row["family"] + (f", conv_dim {row['conv_dim']}" if row.get("conv_dim") else "")
    name += ", dropouts" if row.get("plain") else ""
    case = f"| {name} | {row['rank']} | {row['batch']} | {' | '.join(words)} |"
    print(f"{case} {numbers} | {model / whole - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    main()

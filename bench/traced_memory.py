"""The peak of a training step's memory, traced on fake tensors, against the plan's model.

    python -m bench.traced_memory [--families sd1 sdxl] [--batches 1 4] [--ranks 8 128]

A step of the built-in trainer's U-Net with its LoRA (forward and backward, text given, bf16) is run
on tensors that have sizes and no contents, and every storage is followed. The frozen weights, and
the LoRA with its gradients, are counted apart from what the step itself takes at its peak. Not in
it: CUDA's context, workspaces of libraries, the allocator's rounding, and what kernels of a card
take beside what those of a CPU take (flash attention's sums in fp32).
"""

import argparse
import json
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.engine_ops import CONFIGS
from tenner.engines.native import small_maps
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.network import adapts_unet
from tenner.engines.native.parts import LoraPlan, Parts
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


def trace(family: str, *, batch: int, rank: int, checkpointing: bool) -> Traced:
    """One step at the family's native side."""
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
        plan = LoraPlan(bank=bank, segment="unet", name_of=str, dim=rank, alpha=1.0)
        parsed = parse_unet_config(config)
        parts = Parts(
            tensors, device=cpu, dtype=half, plan=plan, adapts=lambda name: adapts_unet(name, False)
        )
        unet = Unet(parsed, parts)
        unet.checkpointing = checkpointing
        bank.allocate(cpu, half)
        shape = (batch, 4, size, size)
        latents = torch.empty(shape, dtype=half).to(memory_format=torch.channels_last)
        context = torch.empty(batch, 77, parsed.context_dim, dtype=half)
        added = torch.empty(batch, 2816, dtype=half) if parsed.is_sdxl else None
        times = torch.empty(batch, dtype=torch.long)
        bank.begin_pass(first=True)
        storages = Storages()
        flat = [bank.weights, bank.grads, bank.compute, bank.sinks]
        storages.ignore([*_weights(unet), *flat])
        with storages:
            unet(latents, times, context, added).float().square().mean().backward()
    return Traced(
        weights=sum(shape.numel() for shape in shapes.values()) * 2,
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


def main() -> None:
    """Print a table of traces beside the plan's model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", default=["sd1", "sdxl"], choices=list(SIDES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 128])
    options = parser.parse_args()
    print(
        "| family | rank | batch | checkpointing | weights | LoRA | step | traced | model | error |"
    )
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for family in options.families:
        for rank in options.ranks:
            for batch in options.batches:
                for saving in (False, True):
                    print_row(family, rank, batch, saving)


def print_row(family: str, rank: int, batch: int, saving: bool) -> None:
    """A row in GB: states of AdamW8bit are added to the traced LoRA."""
    traced = trace(family, batch=batch, rank=rank, checkpointing=saving)
    lora = traced.lora * (12 + state_bytes("AdamW8bit")) / 12
    load = Load(family=family, pixels=SIDES[family] ** 2, network_dim=rank)  # pyright: ignore[reportArgumentType]
    modelled = memory_parts(load, batch_size=batch, gradient_checkpointing=saving)
    model = sum(gb for name, gb in modelled.items() if name not in ("context", "reserve"))
    whole = (traced.weights + lora + traced.step) / 1e9
    cells = (traced.weights / 1e9, lora / 1e9, traced.step / 1e9, whole, model)
    numbers = " | ".join(f"{each:.2f}" for each in cells)
    saves = "on" if saving else "off"
    error = f"{model / whole - 1:+.0%}"
    print(f"| {family} | {rank} | {batch} | {saves} | {numbers} | {error} |", flush=True)


if __name__ == "__main__":
    main()

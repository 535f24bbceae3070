"""Counts operations, kernels and bytes of a training step of a full-size model, without a device.

A step (forward and backward of the U-Net with its LoRA, text given) is run on fake tensors, which
have sizes but no contents, and every operation that reaches the dispatcher is counted: on a GPU
small batches are bound by the number of kernels to launch and by element-wise traffic.
Element-wise bytes are what operations other than matrix products, convolutions, attention and
views read and write. The base is in bf16, as trained on a GPU.

    python bench/engine_ops.py

Where SD_SCRIPTS_DIR is set, and this Python can import it, sd-scripts' own U-Nets and network are
traced beside ours, under autocast as it trains them; else its figures are those once traced.
"""

import json
import math
import os
import platform
import sys
from collections import Counter
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tenner.engines.native import small_maps
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.network import adapts_unet
from tenner.engines.native.parts import LoraPlan, Parts
from tenner.engines.native.unet import Unet
from tenner.engines.native.unet_config import parse_unet_config

CONFIGS = Path(__file__).parents[1] / "entrypoint/tenner/engines/native/configs.json"
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "attention")
VIEWS = {
    *("view", "t", "transpose", "permute", "expand", "unbind", "split", "split_with_sizes"),
    *("slice", "select", "unsqueeze", "squeeze", "detach", "as_strided", "alias", "_unsafe_view"),
    *("empty", "new_empty", "empty_like", "unfold", "lift_fresh", "_reshape_alias", "chunk"),
}
# Forward of sd-scripts' own U-Nets with networks.lora under autocast, per image, as traced at
# commit 48d368f.
SD_SCRIPTS_FORWARD = {"sd1": (2668, 6.24e9), "sdxl": (8617, 45.6e9)}


class OperationCounter(TorchDispatchMode):
    """Counts operations and the bytes of the element-wise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if function.namespace != "aten":
            return result  # such as a query of a fake tensor's device
        self.names[name] += 1
        if name not in VIEWS and not any(part in name for part in PRODUCTS):
            tensors = list(tree_leaves((args, kwargs, result)))
            self.bytes += sum(
                each.numel() * each.element_size()
                for each in tensors
                if isinstance(each, torch.Tensor)
            )
        return result


def main() -> None:
    small_maps.MOST_POSITIONS = 0  # only CPUs compute small maps that way
    print(f"torch {torch.__version__}, {platform.machine()}, fake tensors, bf16, dim 32, batch 1")
    for family, size in (("sd1", 64), ("sdxl", 128)):
        forward, whole = trace(family, size)
        theirs = SD_SCRIPTS_FORWARD[family]
        their_whole = None
        if os.environ.get("SD_SCRIPTS_DIR"):
            there = trace_sd_scripts(family, size)
            theirs, their_whole = ((each.names.total(), each.bytes) for each in there)
        print_line(family, "forward", forward, theirs)
        print_line(family, "forward and backward", whole, their_whole)


def print_line(
    family: str, part: str, found: OperationCounter, other: tuple[int, float] | None
) -> None:
    total = found.names.total()
    views = sum(count for name, count in found.names.items() if name in VIEWS)
    line = f"{family:5} {part:21} {total:6} operations ({views} views), {found.bytes / 1e9:6.2f} GB"
    if other:
        line += f"; sd-scripts {other[0]}, {other[1] / 1e9:.2f} GB:"
        line += f" {total / other[0]:.2f} and {found.bytes / other[1]:.2f} of it"
    print(line)


def trace(family: str, size: int) -> tuple[OperationCounter, OperationCounter]:
    """The forward pass, and forward and backward together, of one image."""
    from diffusers import UNet2DConditionModel

    config = json.loads(CONFIGS.read_text())[family]["unet"]
    with torch.device("meta"):
        model = UNet2DConditionModel(**config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    with FakeTensorMode():
        tensors = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        bank = LoraBank()
        plan = LoraPlan(bank=bank, segment="unet", name_of=str, dim=32, alpha=16.0)
        parsed = parse_unet_config(config)
        parts = Parts(
            tensors,
            device=torch.device("cpu"),
            dtype=torch.bfloat16,
            plan=plan,
            adapts=lambda name: adapts_unet(name, False),
        )
        unet = Unet(parsed, parts)
        bank.allocate(torch.device("cpu"), torch.bfloat16)
        found = torch.channels_last
        latents = torch.empty(1, 4, size, size, dtype=torch.bfloat16).to(memory_format=found)
        context = torch.empty(1, 77, parsed.context_dim, dtype=torch.bfloat16)
        added = torch.empty(1, 2816, dtype=torch.bfloat16) if parsed.is_sdxl else None
        times = torch.empty(1, dtype=torch.long)
        bank.begin_pass(first=True)
        with OperationCounter() as forward:
            answer = unet(latents, times, context, added)
        with OperationCounter() as backward:
            answer.float().square().mean().backward()
    whole = OperationCounter()
    whole.names = forward.names + backward.names
    whole.bytes = forward.bytes + backward.bytes
    assert math.isfinite(whole.bytes)
    return forward, whole


def trace_sd_scripts(family: str, size: int) -> tuple[OperationCounter, OperationCounter]:
    """The same of sd-scripts' U-Net with `networks.lora`, base in bf16, LoRA in fp32, autocast."""
    sys.path.insert(0, os.environ["SD_SCRIPTS_DIR"])
    from library.original_unet import UNet2DConditionModel
    from library.sdxl_original_unet import SdxlUNet2DConditionModel
    from networks.lora import create_network

    is_sdxl = family == "sdxl"
    with torch.device("meta"):
        model = (
            SdxlUNet2DConditionModel()
            if is_sdxl
            else UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        )
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").to(torch.bfloat16).requires_grad_(False)
        model.train()
        attends = model.set_use_sdpa if hasattr(model, "set_use_sdpa") else None
        if attends:
            attends(True)
        network = create_network(1.0, 32, 16.0, None, [], model)
        network.apply_to(None, model, apply_text_encoder=False, apply_unet=True)
        context = torch.empty(1, 77, 2048 if is_sdxl else 768, dtype=torch.bfloat16)
        added = (torch.empty(1, 2816, dtype=torch.bfloat16),) if is_sdxl else ()
        latents = torch.empty(1, 4, size, size, dtype=torch.bfloat16)
        times = torch.empty(1, dtype=torch.long)
        with OperationCounter() as forward, torch.autocast("cpu", dtype=torch.bfloat16):
            answer = model(latents, times, context, *added)
        answer = answer if isinstance(answer, torch.Tensor) else answer.sample
        with OperationCounter() as backward:
            answer.float().square().mean().backward()
    whole = OperationCounter()
    whole.names = forward.names + backward.names
    whole.bytes = forward.bytes + backward.bytes
    return forward, whole


if __name__ == "__main__":
    main()

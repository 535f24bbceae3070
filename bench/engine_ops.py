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
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tenner.engines.native import small_maps
from tenner.engines.native.clip import ClipText, parse_clip_config
from tenner.engines.native.lora import LoraBank
from tenner.engines.native.network import adapts_unet
from tenner.engines.native.parts import LoraPlan, Parts
from tenner.engines.native.text import TextEncoders
from tenner.engines.native.unet import Unet
from tenner.engines.native.unet_config import parse_unet_config

CONFIGS = Path(__file__).parents[1] / "entrypoint/tenner/engines/native/configs.json"
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "attention")
VIEWS = {
    *("view", "t", "transpose", "permute", "expand", "unbind", "split", "split_with_sizes"),
    *("slice", "select", "unsqueeze", "squeeze", "detach", "as_strided", "alias", "_unsafe_view"),
    *("empty", "new_empty", "empty_like", "unfold", "lift_fresh", "_reshape_alias", "chunk"),
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
# Forward of sd-scripts' own U-Nets with networks.lora under autocast, per image, as traced at
# commit 48d368f.
SD_SCRIPTS_FORWARD = {"sd1": (2668, 6.24e9), "sdxl": (8617, 45.6e9)}


class OperationCounter(TorchDispatchMode):
    """Counts operations and the bytes of the element-wise ones."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.bytes = 0

    @property
    def num_kernels(self) -> int:
        """Operations that launch one; views do not."""
        return sum(count for name, count in self.names.items() if name not in VIEWS)

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
    for family in ("sd1", "sd2", "sdxl"):
        forward, whole = (trace_text(family, trained=each) for each in (False, True))
        print(
            f"{family:5} text encoders: {forward} kernels to encode a caption, {whole} to train;"
            f" transformers' {trace_clip(family)} to encode"
        )


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

    small_maps.MOST_POSITIONS = 0  # only CPUs compute small maps that way
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


def trace_text(family: str, *, trained: bool) -> int:
    """Kernels for encoding a caption, or for that and the backward pass with a LoRA."""
    with FakeTensorMode():
        bank = LoraBank()
        encoders, _ = text_encoders(
            family, bank, 32, False, adapts=adapts_text if trained else never
        )
        if trained:
            bank.allocate(torch.device("cpu"), torch.bfloat16)
            bank.begin_pass(first=True)
        with OperationCounter() as counted, torch.set_grad_enabled(trained):
            found = encoders.encode([""])
            if trained:
                pooled = 0 if found.pooled is None else found.pooled.float().mean()
                (found.context.float().mean() + pooled).backward()
    return counted.num_kernels


def trace_clip(family: str) -> int:
    """Kernels of encoding a caption with transformers' CLIP, as sd-scripts does."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    number = 0
    for part in TEXT_ENCODERS[: 2 if family == "sdxl" else 1]:
        config = json.loads(CONFIGS.read_text())[family][part]
        with FakeTensorMode(), torch.no_grad():
            model = CLIPTextModelWithProjection(CLIPTextConfig(**config))
            with OperationCounter() as counted:
                model(torch.zeros(1, 77, dtype=torch.long))
        number += counted.num_kernels
    return number


class Captions:
    """Stand-in for a tokenizer: token ids of 77 words, without contents."""

    num_chunks, chunk, eos = 1, 75, 49407

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        return torch.empty(len(captions), 77, dtype=torch.long)


def text_shapes(family: str) -> list[tuple[dict, dict[str, torch.Size]]]:
    """Configuration and tensors of each text encoder, by the names that the trainer reads."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    found = []
    for part in TEXT_ENCODERS[: 2 if family == "sdxl" else 1]:
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
    family: str,
    bank: LoraBank,
    rank: int,
    checkpointing: bool,
    *,
    adapts: Callable[[str], bool] | None = None,
) -> tuple[TextEncoders, int]:
    """Text encoders with their LoRA, and the bytes of their weights."""
    half, cpu, encoders, projection, num_bytes = torch.bfloat16, torch.device("cpu"), [], None, 0
    for number, (config, shapes) in enumerate(text_shapes(family)):
        tensors = {name: torch.empty(shape, dtype=half) for name, shape in shapes.items()}
        num_bytes += sum(each.nbytes for each in tensors.values())
        projection = tensors.pop("text_projection.weight", None)
        segment = f"te{number}"
        plan = LoraPlan(bank=bank, segment=segment, name_of=str, dim=rank, alpha=1.0)
        parts = Parts(tensors, device=cpu, dtype=half, plan=plan, adapts=adapts or adapts_text)
        clip = ClipText(parse_clip_config(config), parts)
        clip.checkpointing = checkpointing
        encoders.append((Captions(), clip))
    return TextEncoders(family, encoders, projection, None, cpu), num_bytes  # pyright: ignore[reportArgumentType]


def adapts_text(name: str) -> bool:
    """Attention and MLP, as in the trainer."""
    return ".self_attn." in name or ".mlp." in name


def never(name: str) -> bool:
    """As where text encoders are not trained."""
    return False


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

"""sd-scripts' LoRA of Chroma in a diffusers that knows Chroma: newer than the image's."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

WIDTH, RANK = 3072, 2
"""diffusers' conversion has the width written in it."""
SHAPES = {
    **{f"double_blocks_0_{side}_attn_qkv": (3 * WIDTH, WIDTH) for side in ("img", "txt")},
    **{f"double_blocks_0_{side}_attn_proj": (WIDTH, WIDTH) for side in ("img", "txt")},
    **{f"double_blocks_0_{side}_mlp_0": (4 * WIDTH, WIDTH) for side in ("img", "txt")},
    **{f"double_blocks_0_{side}_mlp_2": (WIDTH, 4 * WIDTH) for side in ("img", "txt")},
    "single_blocks_0_linear1": (7 * WIDTH, WIDTH),
    "single_blocks_0_linear2": (WIDTH, 5 * WIDTH),
}
"""What networks.lora_flux adapts of a block of each kind
(`tests/contract/test_names_in_comfyui.py`)."""


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.FluxPosEmbed. is deprecated:FutureWarning")
def test_every_module_is_loaded(tmp_path: Path) -> None:
    library: Any = diffusers
    with torch.device("meta"):
        model = library.ChromaTransformer2DModel(
            num_layers=1, num_single_layers=1, joint_attention_dim=64, approximator_layers=1
        )
    model.to_empty(device="cpu")  # its numbers do not matter
    lora: dict[str, torch.Tensor] = {}
    for name, (out, inputs) in SHAPES.items():
        module = f"lora_unet_{name}"
        lora[f"{module}.lora_down.weight"] = torch.ones(RANK, inputs)
        lora[f"{module}.lora_up.weight"] = torch.ones(out, RANK)
        lora[f"{module}.alpha"] = torch.tensor(float(RANK))
    save_file(lora, tmp_path / "lora.safetensors")
    converted = library.ChromaPipeline.lora_state_dict(
        str(tmp_path), weight_name="lora.safetensors"
    )
    model.load_lora_adapter(converted, prefix="transformer", adapter_name="x")
    loaded = {name for name, each in model.named_modules() if len(getattr(each, "lora_A", ()))}
    linear = {
        name
        for name, each in model.named_modules()
        if isinstance(each, torch.nn.Linear) and "blocks.0." in name and "lora" not in name
    }
    assert loaded == {name.removesuffix(".base_layer") for name in linear}

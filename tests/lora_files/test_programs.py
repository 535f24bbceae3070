"""Which programs read a LoRA of each family, by the names that sd-scripts gives its modules."""

from pathlib import Path

import pytest

from tenner.lora_files import read_lora_file
from tenner.lora_files.programs import read_by
from tests.lora_files.made import kohya, write

BLOCKS = {
    "flux": ("double_blocks_0_img_attn_qkv", 3072),
    "sd35-large": ("joint_blocks_0_x_block_attn_qkv", 2432),
    "lumina2": ("layers_0_attention_qkv", 2304),
    "anima": ("blocks_0_self_attn_q_proj", 2048),
    "hunyuan-image": ("double_blocks_0_img_attn_qkv", 3584),
}
LOADS = {
    "flux": {"Forge", "ComfyUI", "diffusers"},
    "sd35-large": {"Forge", "ComfyUI"},
    "lumina2": {"ComfyUI"},
    "anima": {"ComfyUI"},
    "hunyuan-image": {"ComfyUI"},
}


def reading(path: Path) -> set[str]:
    """The programs for pictures that read the file."""
    found = {each.program for each in read_by(read_lora_file(path)) if not each.why_not}
    return found & {"A1111", "Forge", "ComfyUI", "diffusers"}


@pytest.mark.parametrize("family", BLOCKS)
def test_only_programs_that_load_the_family_are_named(tmp_path: Path, family: str) -> None:
    block, width = BLOCKS[family]
    tensors = kohya(f"lora_unet_{block}", 3 * width, width, 4, 4.0)
    path = write(tmp_path / "a.safetensors", tensors)
    assert read_lora_file(path).family == family
    assert reading(path) == LOADS[family]


def test_comfyui_reads_hunyuanimages_modules_only_by_its_own_names(tmp_path: Path) -> None:
    width = BLOCKS["hunyuan-image"][1]
    attention = kohya("lora_unet_double_blocks_0_img_attn_qkv", 3 * width, width, 4, 4.0)
    for name, programs in (("fc1", set[str]()), ("0", {"ComfyUI"})):
        mlp = kohya(f"lora_unet_double_blocks_0_img_mlp_{name}", 4 * width, width, 4, 4.0)
        path = write(tmp_path / f"{name}.safetensors", {**attention, **mlp})
        assert reading(path) == programs

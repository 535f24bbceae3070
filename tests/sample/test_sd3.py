"""sd-scripts' LoRAs of Stable Diffusion 3 do in diffusers' model what they do in their own.

The LoRA is added to the weights in the original layout, which diffusers then converts with its own
function; and it is loaded under the names that the sampler gives it. Both are the same model.
"""

from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

from tenner.sample.sd3 import transformer_config
from tenner.sample.sd3_lora import renamed

WIDTH, CONTEXT, POOLED, SIDE, BLOCKS = 128, 32, 24, 4, 2
ALPHA, RANK = 2.0, 4


def layers(*, is_last: bool, is_dual: bool) -> dict[str, tuple[int, ...]]:
    """The linear layers of a joint block and their shapes, as SD 3.5 Medium's code has them."""
    found: dict[str, tuple[int, ...]] = {
        "x_block.adaLN_modulation.1": ((9 if is_dual else 6) * WIDTH, WIDTH),
        "context_block.adaLN_modulation.1": ((2 if is_last else 6) * WIDTH, WIDTH),
        "context_block.attn.qkv": (3 * WIDTH, WIDTH),
    }
    for part in ("x_block",) if is_last else ("x_block", "context_block"):
        found |= {
            f"{part}.attn.qkv": (3 * WIDTH, WIDTH),
            f"{part}.attn.proj": (WIDTH, WIDTH),
            f"{part}.mlp.fc1": (4 * WIDTH, WIDTH),
            f"{part}.mlp.fc2": (WIDTH, 4 * WIDTH),
        }
    if is_dual:
        found |= {
            "x_block.attn2.qkv": (3 * WIDTH, WIDTH),
            "x_block.attn2.proj": (WIDTH, WIDTH),
        }
    return found


def model_layers(*, dual: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (WIDTH, 16, 2, 2),
        "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH),
        "y_embedder.mlp.0": (WIDTH, POOLED),
        "y_embedder.mlp.2": (WIDTH, WIDTH),
        "context_embedder": (WIDTH, CONTEXT),
        "final_layer.linear": (64, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    for number in range(BLOCKS):
        block = layers(is_last=number == BLOCKS - 1, is_dual=number in dual)
        found |= {f"joint_blocks.{number}.{name}": shape for name, shape in block.items()}
    return found


def checkpoint(*, dual: tuple[int, ...], has_norm: bool) -> dict[str, torch.Tensor]:
    tensors = {"pos_embed": torch.randn(1, SIDE * SIDE, WIDTH)}
    for name, shape in model_layers(dual=dual).items():
        tensors[f"{name}.weight"] = torch.randn(shape)
        tensors[f"{name}.bias"] = torch.randn(shape[0])
    for number in range(BLOCKS) if has_norm else ():
        attentions = ["x_block.attn", "context_block.attn"]
        attentions += ["x_block.attn2"] if number in dual else []
        for each in attentions:
            for side in ("q", "k"):
                tensors[f"joint_blocks.{number}.{each}.ln_{side}.weight"] = torch.ones(64)
    return tensors


def lora_of(dual: tuple[int, ...]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, (out, *rest) in model_layers(dual=dual).items():
        module = f"lora_unet_{name.replace('.', '_')}"
        found[f"{module}.lora_down.weight"] = torch.randn(RANK, *rest)
        found[f"{module}.lora_up.weight"] = torch.randn(out, RANK, *[1] * (len(rest) - 1))
        found[f"{module}.alpha"] = torch.tensor(ALPHA)
    return found


def merged(
    tensors: dict[str, torch.Tensor], lora: dict[str, torch.Tensor], dual: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    found = dict(tensors)
    for name, shape in model_layers(dual=dual).items():
        module = f"lora_unet_{name.replace('.', '_')}"
        down = lora[f"{module}.lora_down.weight"].flatten(1)
        update = lora[f"{module}.lora_up.weight"].flatten(1) @ down
        found[f"{name}.weight"] = tensors[f"{name}.weight"] + ALPHA / RANK * update.reshape(shape)
    return found


@pytest.mark.parametrize(
    ("dual", "has_norm"), [((0,), True), ((), True), ((), False)], ids=["3.5-medium", "large", "3"]
)
def test_a_lora_under_diffusers_names_is_the_lora(dual: tuple[int, ...], has_norm: bool) -> None:
    torch.manual_seed(0)
    base, lora = checkpoint(dual=dual, has_norm=has_norm), lora_of(dual)
    shapes = {name: list(each.shape) for name, each in base.items()}
    library: Any = diffusers
    config = {key: value for key, value in transformer_config(shapes).items() if key[0] != "_"}
    model = library.SD3Transformer2DModel(sample_size=SIDE * 2, **config)
    model.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(dict(base)))
    names = renamed(lora, BLOCKS)
    assert not names.unknown
    model.load_lora_adapter(names.tensors, prefix="transformer", adapter_name="x")
    model.fuse_lora()
    model.unload_lora()
    right = convert_sd3_transformer_checkpoint_to_diffusers(merged(base, lora, dual))
    found = model.state_dict()
    assert found.keys() == right.keys()
    for name, value in right.items():
        assert torch.allclose(found[name], value, atol=1e-4), name


def test_modules_without_a_name_there_are_counted() -> None:
    lora = {
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": torch.ones(1, 2),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": torch.ones(2, 1),
        "lora_te2_text_model_encoder_layers_3_self_attn_out_proj.lora_down.weight": torch.ones(
            1, 2
        ),
        "lora_te2_text_model_encoder_layers_3_self_attn_out_proj.lora_up.weight": torch.ones(2, 1),
    }
    found = renamed(lora, 2)
    assert found.unknown == ("lora_te3_encoder_block_0_layer_0_SelfAttention_q",)
    path = "text_encoder_2.text_model.encoder.layers.3.self_attn.out_proj"
    assert set(found.tensors) == {f"{path}.lora_A.weight", f"{path}.lora_B.weight"}

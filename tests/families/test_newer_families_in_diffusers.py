"""sd-scripts' LoRAs of Lumina Image 2, Anima and HunyuanImage in a diffusers that knows these
families: newer than the image's, and it loads none of them.

A diffusers that loads them makes these tests fail: then its column in docs/families.md and
`tenner.lora_files.programs` are to be changed.
"""

import logging
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

WIDTH, RANK = 32, 2
LIBRARY: Any = diffusers


def written(path: Path, shapes: dict[str, tuple[int, int]], *, alpha: bool = True) -> Path:
    """The folder of a LoRA as sd-scripts writes it, of modules of these shapes (out, in)."""
    tensors: dict[str, torch.Tensor] = {}
    for name, (out, inputs) in shapes.items():
        down, up = ("lora_A", "lora_B") if "." in name else ("lora_down", "lora_up")
        tensors[f"{name}.{down}.weight"] = torch.ones(RANK, inputs)
        tensors[f"{name}.{up}.weight"] = torch.ones(out, RANK)
        if alpha:
            tensors[f"{name}.alpha"] = torch.tensor(float(RANK))
    path.mkdir()
    save_file(tensors, path / "lora.safetensors")
    return path


def adapted(model: torch.nn.Module) -> set[str]:
    """The modules of the model that have a LoRA."""
    return {name for name, each in model.named_modules() if len(getattr(each, "lora_A", ()))}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_luminas_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LIBRARY.Lumina2Transformer2DModel(
        sample_size=4,
        in_channels=4,
        hidden_size=WIDTH,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 4, 8),
        axes_lens=(16, 16, 16),
        cap_feat_dim=16,
    )
    pipeline = LIBRARY.Lumina2Pipeline(
        transformer=model,
        scheduler=LIBRARY.FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
    )
    shapes = {
        "attention_qkv": (2 * WIDTH, WIDTH),
        "attention_out": (WIDTH, WIDTH),
        "feed_forward_w1": (96, WIDTH),
        "feed_forward_w2": (WIDTH, 96),
        "feed_forward_w3": (96, WIDTH),
        "adaLN_modulation_1": (4 * WIDTH, WIDTH),
    }
    folder = written(
        tmp_path / "lora", {f"lora_unet_layers_0_{name}": each for name, each in shapes.items()}
    )
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    pipeline.load_lora_weights(str(folder), weight_name="lora.safetensors", adapter_name="x")
    assert "No LoRA keys associated to Lumina2Transformer2DModel" in caplog.text
    assert pipeline.get_list_adapters() == {}
    assert adapted(model) == set()


def anima() -> tuple[Any, torch.nn.Module]:
    """A pipeline with a transformer of one block, and the transformer."""
    model = LIBRARY.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=WIDTH // 2,
        num_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=WIDTH,
        adaln_lora_dim=4,
        max_size=(4, 8, 8),
    )
    pipeline = LIBRARY.AnimaAutoBlocks().init_pipeline()
    pipeline.update_components(transformer=model)
    return pipeline, model


ANIMA = {
    **{
        f"{attention}.{name}": (WIDTH, WIDTH)
        for attention in ("self_attn", "cross_attn")
        for name in ("q_proj", "k_proj", "v_proj", "output_proj")
    },
    "mlp.layer1": (2 * WIDTH, WIDTH),
    "mlp.layer2": (WIDTH, 2 * WIDTH),
}


def test_animas_is_passed_over_in_silence(tmp_path: Path) -> None:
    pipeline, model = anima()
    shapes = {f"lora_unet_blocks_0_{name.replace('.', '_')}": ANIMA[name] for name in ANIMA}
    folder = written(tmp_path / "lora", shapes)
    pipeline.load_lora_weights(str(folder), weight_name="lora.safetensors", adapter_name="x")
    assert adapted(model) == set()


def test_animas_is_refused_as_sd_scripts_renames_it_for_its_alphas_alone(tmp_path: Path) -> None:
    """`networks/convert_anima_lora_to_comfy.py` keeps the alphas."""
    pipeline, model = anima()
    shapes = {f"diffusion_model.blocks.0.{name}": ANIMA[name] for name in ANIMA}
    given = {"weight_name": "lora.safetensors", "adapter_name": "x"}
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        pipeline.load_lora_weights(str(written(tmp_path / "with", shapes)), **given)
    folder = written(tmp_path / "without", shapes, alpha=False)
    pipeline.load_lora_weights(str(folder), **given)
    assert len(adapted(model)) == len(shapes)


def test_the_pipeline_of_hunyuanimage_loads_no_loras() -> None:
    assert not hasattr(LIBRARY.HunyuanImagePipeline, "load_lora_weights")

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Parts of pipelines that are made of single files: text encoders, autoencoder, transformer.

Sizes are read from the tensors; nothing is fetched.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from transformers import CLIPTextConfig, T5Config, T5EncoderModel

from tenner.core.temporary_files import temporary_folder
from tenner.families.transformers import T5_XXL


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(str(path), framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in list(file.keys())}


def from_single_file(kind: Any, path: str, config: dict[str, Any], dtype: torch.dtype) -> Any:
    with temporary_folder("config") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return kind.from_single_file(
            path, config=str(folder), torch_dtype=dtype, local_files_only=True
        )


def autoencoder_config(*, scaling_factor: float, shift_factor: float) -> dict[str, Any]:
    """diffusers' configuration of a 16-channel autoencoder, as FLUX.1 and Stable Diffusion 3 have
    it; they differ in how its latents are scaled."""
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "in_channels": 3,
        "out_channels": 3,
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }


def part_tensors(path: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a file whose names begin with `prefix`, by the rest of their names."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in list(file.keys()) if name.startswith(prefix)]
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def open_clip(tensors: dict[str, torch.Tensor], dtype: torch.dtype, kind: Any, act: str) -> Any:
    """A CLIP text encoder of the class `kind`, with the activation `act`."""
    width = tensors["text_model.embeddings.token_embedding.weight"].shape[1]
    make: Any = CLIPTextConfig
    config = make(
        hidden_size=width,
        intermediate_size=tensors["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=num_layers(tensors, "text_model.encoder.layers."),
        num_attention_heads=width // 64,
        projection_dim=width,
        hidden_act=act,
        eos_token_id=2,  # as in the configuration that came with the weights
    )
    return filled(kind(config), tensors, dtype)


def open_t5_tokenizer(tokenizers: Path) -> Any:
    """T5's tokenizer among sd-scripts' own files."""
    # version 5 has one of the two alone
    kind: Any = getattr(transformers, "T5TokenizerFast", None) or transformers.T5Tokenizer
    return kind.from_pretrained(tokenizers / T5_XXL, local_files_only=True)


def open_t5(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """T5's encoder."""
    first = "encoder.block.0.layer.0.SelfAttention."
    heads = tensors[f"{first}relative_attention_bias.weight"].shape[1]
    queries, width = tensors[f"{first}q.weight"].shape
    kind: Any = T5Config
    config = kind(
        d_model=width,
        d_kv=queries // heads,
        d_ff=tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        num_heads=heads,
        num_layers=num_layers(tensors, "encoder.block."),
        vocab_size=tensors["shared.weight"].shape[0],
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        relative_attention_num_buckets=32,
    )
    tensors.setdefault("encoder.embed_tokens.weight", tensors["shared.weight"])
    return filled(T5EncoderModel(config), tensors, dtype)


def num_layers(tensors: dict[str, Any], prefix: str) -> int:
    names = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    return len({name.split(".")[0] for name in names})


def filled(module: Any, tensors: dict[str, Any], dtype: torch.dtype) -> Any:
    """The module with its weights. Raises KeyError where one is missing."""
    own = {name.removeprefix("text_model."): each for name, each in tensors.items()}
    names = module.state_dict().keys()
    chosen = {name: tensors.get(name, own.get(name)) for name in names}
    missing = [name for name, each in chosen.items() if each is None and "position_ids" not in name]
    if missing:
        raise KeyError(missing[0])
    module.load_state_dict(
        {name: each for name, each in chosen.items() if each is not None}, strict=False
    )
    return module.to(dtype).eval()

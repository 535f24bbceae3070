# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""FLUX.1 as a diffusers pipeline, from the single files that it was trained with.

Sizes are read from the tensors; nothing is fetched. The transformer goes through diffusers' own
`from_single_file`, so that a base is read as any program with diffusers reads it.
"""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from tenner.base.tokenizers import open_clip_tokenizer
from tenner.core.temporary_files import temporary_folder
from tenner.families.transformers import CLIP_L, T5_XXL
from tenner.sample.job import SampleJob

_AE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "in_channels": 3,
    "out_channels": 3,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""black-forest-labs/FLUX.1-dev, vae/config.json."""
_SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
}
"""The same, scheduler/scheduler_config.json; schnell has no shifting by size."""
ROOM = 1.2
"""Memory over weights that drawing takes on a card."""


def open_flux(job: SampleJob, dtype: torch.dtype) -> Any:
    """The pipeline, where the card's memory lets it be. Raises OSError, KeyError, RuntimeError or
    ValueError where a file is not what it should be."""
    shapes = _shapes(Path(job.base))
    has_guidance = any("guidance_in" in name for name in shapes)
    tokenizers = Path(job.tokenizers or "")
    # version 5 has one of the two alone
    tokenizer: Any = getattr(transformers, "T5TokenizerFast", None) or transformers.T5Tokenizer
    library: Any = diffusers
    return library.FluxPipeline(
        scheduler=library.FlowMatchEulerDiscreteScheduler(
            shift=3.0 if has_guidance else 1.0, use_dynamic_shifting=has_guidance, **_SCHEDULER
        ),
        vae=_from_single_file(library.AutoencoderKL, job.further["ae"], _AE, dtype),
        text_encoder=_clip(job.further["clip_l"], dtype),
        tokenizer=open_clip_tokenizer(tokenizers / CLIP_L),
        text_encoder_2=_t5(job.further["t5xxl"], dtype),
        tokenizer_2=tokenizer.from_pretrained(tokenizers / T5_XXL, local_files_only=True),
        transformer=_from_single_file(
            library.FluxTransformer2DModel, job.base, _transformer(shapes, has_guidance), dtype
        ),
    )


def place(pipe: Any, device: str) -> Any:
    """The pipeline on the device: whole where it fits, else part by part, else layer by layer."""
    if device != "cuda":
        return pipe.to(device)
    sizes = [
        sum(each.numel() * each.element_size() for each in part.parameters())
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
    ]
    free, _ = torch.cuda.mem_get_info()
    if sum(sizes) * ROOM <= free:
        return pipe.to(device)
    if max(sizes) * ROOM <= free:
        pipe.enable_model_cpu_offload()
    else:
        pipe.enable_sequential_cpu_offload()
    return pipe


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(str(path), framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in list(file.keys())}


def _transformer(shapes: dict[str, list[int]], has_guidance: bool) -> dict[str, Any]:
    def number(kind: str) -> int:
        found = {name.split(f"{kind}.")[1].split(".")[0] for name in shapes if f"{kind}." in name}
        return len(found)

    return {
        "_class_name": "FluxTransformer2DModel",
        "num_layers": number("double_blocks"),
        "num_single_layers": number("single_blocks"),
        "guidance_embeds": has_guidance,
    }


def _from_single_file(kind: Any, path: str, config: dict[str, Any], dtype: torch.dtype) -> Any:
    with temporary_folder("config") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return kind.from_single_file(
            path, config=str(folder), torch_dtype=dtype, local_files_only=True
        )


def _clip(path: str, dtype: torch.dtype) -> Any:
    tensors = load_file(path)
    width = tensors["text_model.embeddings.token_embedding.weight"].shape[1]
    kind: Any = CLIPTextConfig
    config = kind(
        hidden_size=width,
        intermediate_size=tensors["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(tensors, "text_model.encoder.layers."),
        num_attention_heads=width // 64,
        projection_dim=width,
        eos_token_id=2,  # as in the configuration that came with the weights
    )
    return _filled(CLIPTextModel(config), tensors, dtype)


def _t5(path: str, dtype: torch.dtype) -> Any:
    tensors = load_file(path)
    first = "encoder.block.0.layer.0.SelfAttention."
    heads = tensors[f"{first}relative_attention_bias.weight"].shape[1]
    queries, width = tensors[f"{first}q.weight"].shape
    kind: Any = T5Config
    config = kind(
        d_model=width,
        d_kv=queries // heads,
        d_ff=tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        num_heads=heads,
        num_layers=_layers(tensors, "encoder.block."),
        vocab_size=tensors["shared.weight"].shape[0],
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        relative_attention_num_buckets=32,
    )
    tensors.setdefault("encoder.embed_tokens.weight", tensors["shared.weight"])
    return _filled(T5EncoderModel(config), tensors, dtype)


def _layers(tensors: dict[str, Any], prefix: str) -> int:
    names = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    return len({name.split(".")[0] for name in names})


def _filled(module: Any, tensors: dict[str, Any], dtype: torch.dtype) -> Any:
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

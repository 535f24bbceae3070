"""Tiny random Stable Diffusion models and LoRAs with real structure, made in seconds."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

WIDTH = 32


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer: every letter is a token of its own."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    vocabulary = {word: index for index, word in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    settings: dict[str, Any] = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)


def text_config(hidden: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=projection,
        bos_token_id=376,
        eos_token_id=377,
        pad_token_id=377,
    )


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=WIDTH,
    )


def unet(cross: int, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=WIDTH // 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=8,
        norm_num_groups=8,
        **more,
    )


def make_sd1(folder: Path) -> Path:
    """v-prediction with zero terminal SNR, as small bases need it."""
    torch.manual_seed(0)
    saved_tokenizer = folder.with_name(f"{folder.name}-tokenizer")
    StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(32, 32)),
        tokenizer=tokenizer(saved_tokenizer),
        unet=unet(32),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    shutil.copytree(saved_tokenizer, folder / "tokenizer", dirs_exist_ok=True)
    return folder


def make_sdxl(folder: Path) -> Path:
    torch.manual_seed(0)
    files = folder.with_name(f"{folder.name}-tokenizer")
    saved_tokenizer = tokenizer(files)
    StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(32, 32)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(32, 24)),
        tokenizer=saved_tokenizer,
        tokenizer_2=saved_tokenizer,
        unet=unet(
            64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    ).save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2"):
        # transformers 5 no longer writes the files that older ones read
        shutil.copytree(files, folder / name, dirs_exist_ok=True)
    return folder


def make_lora(base: Path, path: Path, *, dim: int = 4, size: float = 0.3) -> int:
    """A random LoRA under kohya's names: all that `networks.lora` changes in SD 1.x.

    Its alpha is half its dim. Returns how many modules it changes.
    """
    torch.manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for key, (rows, columns, conv) in lora_modules(base).items():
        tail = (1, 1) if conv else ()
        tensors[f"{key}.lora_down.weight"] = torch.randn(dim, columns, *tail) * size
        tensors[f"{key}.lora_up.weight"] = torch.randn(rows, dim, *tail) * size
        tensors[f"{key}.alpha"] = torch.tensor(dim / 2)
    save_file(tensors, path)
    return len(tensors) // 3


def lora_modules(base: Path) -> dict[str, tuple[int, int, bool]]:
    """kohya's names -> (out, in, whether it is a 1x1 convolution)."""
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder")
    found: dict[str, tuple[int, int, bool]] = {}
    for name, module in unet.named_modules():
        inside = ".attentions." in name
        if inside and isinstance(module, torch.nn.Linear):
            found[f"lora_unet_{name}"] = (module.out_features, module.in_features, False)
        if inside and isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1):
            found[f"lora_unet_{name}"] = (module.out_channels, module.in_channels, True)
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Linear) and "encoder.layers" in name:
            name = name.removeprefix("text_model.")  # older transformers have this level
            key = f"lora_te_text_model.{name}"
            found[key] = (module.out_features, module.in_features, False)
    return {name.replace(".", "_"): shape for name, shape in found.items()}


def merge_lora(base: Path, lora: Path, strength: float, folder: Path) -> Path:
    """The base with the LoRA added into its weights, by the formula of `networks.lora`."""
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    tensors = load_file(lora)
    for prefix, part in (("lora_unet_", pipe.unet), ("lora_te_text_model_", pipe.text_encoder)):
        for name, module in part.named_modules():
            key = prefix + name.removeprefix("text_model.").replace(".", "_")
            if f"{key}.alpha" not in tensors:
                continue
            down = tensors[f"{key}.lora_down.weight"]
            up = tensors[f"{key}.lora_up.weight"]
            scale = strength * tensors[f"{key}.alpha"].item() / down.shape[0]
            change = (up.flatten(1) @ down.flatten(1)).reshape(module.weight.shape)
            module.weight.data += scale * change
    pipe.save_pretrained(folder)
    shutil.copytree(base / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    return folder


def make_lycoris(base: Path, path: Path, kind: str) -> int:
    """A random LoHa, LoKr, DoRA or (IA)³ of all linear layers of `make_lora`, under kohya's names.
    Returns how many modules it changes."""
    torch.manual_seed(2)
    shapes = {name: shape[:2] for name, shape in lora_modules(base).items() if not shape[2]}
    tensors: dict[str, torch.Tensor] = {}
    for name, (rows, columns) in shapes.items():
        for part, each in _lycoris_parts(kind, rows, columns).items():
            tensors[f"{name}.{part}"] = each
    save_file(tensors, path)
    return len(shapes)


def _lycoris_parts(kind: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape) * 0.3

    alpha = {"alpha": torch.tensor(2.0)}
    if kind == "loha":
        sides = {"a": (rows, 4), "b": (4, columns)}
        names = [f"hada_w{number}_{side}" for number in (1, 2) for side in sides]
        return {each: random(*sides[each[-1]]) for each in names} | alpha
    if kind == "lokr":
        return {"lokr_w1": random(4, 4), "lokr_w2": random(rows // 4, columns // 4)} | alpha
    if kind.startswith("dora"):
        plain = {"lora_down.weight": random(4, columns), "lora_up.weight": random(rows, 4)}
        shape = (rows, 1) if kind == "dora" else (1, columns)
        return {**plain, "dora_scale": 1 + random(*shape).abs()} | alpha
    return {"weight": random(rows), "on_input": torch.tensor(0)}


def merge_lycoris(base: Path, lora: Path, strength: float, folder: Path) -> Path:
    """The base with a LoHa, LoKr, DoRA or (IA)³ in its weights: arXiv 2309.14859 (eq. 4 and 5),
    2402.09353 (eq. 5, at strength 1) and 2205.05638 (3.3)."""
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    tensors = load_file(lora)
    for prefix, part in (("lora_unet_", pipe.unet), ("lora_te_text_model_", pipe.text_encoder)):
        for name, module in part.named_modules():
            key = prefix + name.removeprefix("text_model.").replace(".", "_")
            own = {
                each.removeprefix(f"{key}."): value
                for each, value in tensors.items()
                if each.startswith(f"{key}.")
            }
            if own:
                module.weight.data += strength * _lycoris_change(own, module.weight.data)
    pipe.save_pretrained(folder)
    shutil.copytree(base / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    return folder


def _lycoris_change(own: dict[str, torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    if "dora_scale" in own:
        up, down = own["lora_up.weight"], own["lora_down.weight"]
        changed = weight + up @ down * own["alpha"] / len(down)
        inwards = own["dora_scale"].shape[0] == 1
        return (
            changed * own["dora_scale"] / changed.norm(dim=0 if inwards else 1, keepdim=True)
            - weight
        )
    if "hada_w1_a" in own:
        first, second = (own[f"hada_w{each}_a"] @ own[f"hada_w{each}_b"] for each in (1, 2))
        return first * second * own["alpha"] / own["hada_w1_b"].shape[0]
    if "lokr_w1" in own:
        return torch.kron(own["lokr_w1"], own["lokr_w2"])  # whole matrices are not scaled
    return weight * own["weight"][:, None]

"""Random models of Stable Diffusion's architecture, a few thousand numbers wide, in seconds."""

import json
from pathlib import Path

import torch
from PIL import Image

from tenner.core.train_job import TrainItem, TrainJob

WORDS = ["a", "photo", "of", "sks", "star", "on", "red", "blue", "ground", ","]


def make_tokenizer(folder: Path, *, pad: str = "<|endoftext|>") -> None:
    """CLIP's file format with single letters and no merges."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_text_encoder(folder: Path, *, width: int, projected: bool, act: str):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=190,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act=act,
        bos_token_id=188,
        eos_token_id=189,
        pad_token_id=189,
    )
    torch.manual_seed(width)
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    return model


def make_unet(folder: Path, family: str):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    shape = {
        "sample_size": 8,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "block_out_channels": (8, 16),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
    }
    down = ("CrossAttnDownBlock2D", "DownBlock2D")
    if family == "sd2":
        shape |= {
            "cross_attention_dim": 32,
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
        }
    if family == "sdxl":
        shape |= {
            "cross_attention_dim": 40,
            "attention_head_dim": (2, 4),
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24 + 6 * 8,
        }
        down = ("DownBlock2D", "CrossAttnDownBlock2D")
    up = tuple(name.replace("Down", "Up") for name in reversed(down))
    model = UNet2DConditionModel(down_block_types=down, up_block_types=up, **shape).eval()
    model.save_pretrained(folder)
    return model


def make_vae(folder: Path) -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=16,
    ).save_pretrained(folder)


def make_base(folder: Path, family: str = "sd1") -> Path:
    """A whole base model in diffusers layout: VAE 2x, latents 8x8 for 16 px."""
    make_unet(folder / "unet", family)
    make_vae(folder / "vae")
    make_tokenizer(folder / "tokenizer")
    width, act = (32, "gelu") if family == "sd2" else (16, "quick_gelu")
    make_text_encoder(folder / "text_encoder", width=width, projected=False, act=act)
    if family == "sdxl":
        make_tokenizer(folder / "tokenizer_2", pad="!")
        make_text_encoder(folder / "text_encoder_2", width=24, projected=True, act="gelu")
    scheduler = {
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction" if family == "sd2" else "epsilon",
        "clip_sample": False,
        "steps_offset": 1,
        "beta_schedule": "scaled_linear",
    }
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def make_items(folder: Path, count: int = 6) -> tuple[TrainItem, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for index in range(count):
        size = (16, 16) if index % 3 else (16, 24)
        path = folder / f"{index}.png"
        Image.new("RGB", size, (40 * index, 255 - 40 * index, 90)).save(path)
        items.append(
            TrainItem(
                image=str(path),
                caption=f"sks star, {WORDS[index]}, red ground",
                bucket=size,
                resized=size,
                num_repeats=2,
                folder="2_sks",
            )
        )
    return tuple(items)


def make_job(base: Path, out: Path, items: tuple[TrainItem, ...], **changes: object) -> TrainJob:
    values: dict[str, object] = {
        "base": str(base),
        "family": "sd1",
        "items": items,
        "resolution": (16, 16),
        "output_dir": str(out),
        "output_name": "lora",
        "state_dir": str(out / "state"),
        "train_batch_size": 2,
        "max_train_steps": 6,
        "network_dim": 4,
        "network_alpha": 2.0,
        "learning_rate": 1e-2,
        "num_threads": 1,
        "save_precision": "float",
    }
    return TrainJob(**(values | changes))

"""Models that draft captions, with the real ones' interface and next to no size.

The pinned models are hundreds of megabytes. These are a tagger in ONNX that knows three colours, a
BLIP and a Qwen2-VL of two layers with seeded weights, and pictures for them.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tenner.cli.main import main

TAGS = ["rating_safe", "red_sky", "green_sky", "blue_sky", "^_^", "some_one"]
CATEGORIES = [9, 0, 0, 0, 0, 4]
RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def tagger(folder: Path) -> Path:
    """An ONNX graph as WD14's: the mean of blue, green and red decides each tag."""
    folder.mkdir(parents=True)
    weights = np.zeros((3, 6), np.float32)
    weights[2, 1] = weights[1, 2] = weights[0, 3] = 0.04  # blue stands first
    weights[2, 4], weights[1, 5] = 0.03, 0.06
    bias = np.array([50, -4, -4, -4, -4, -9], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["tags"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 32, 32, 3])],
        [helper.make_tensor_value_info("tags", TensorProto.FLOAT, ["n", 6])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    rows = [
        f"{n},{tag},{kind},9" for n, (tag, kind) in enumerate(zip(TAGS, CATEGORIES, strict=True))
    ]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]))
    return folder


def pictures(folder: Path, **colors: tuple[int, int, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, color in colors.items():
        Image.new("RGB", (64, 64), color).save(folder / f"{name}.png")
    return folder


def caption(folder: Path, model: Path, *words: str) -> int:
    return main(["caption", str(folder), "--model", str(model), "--device", "cpu", *words])


def blip(folder: Path):
    """A BLIP of two layers with seeded weights, and its words, as files in `folder`."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers import models as words_models
    from transformers import BlipConfig, BlipForConditionalGeneration

    folder.mkdir()
    words = ["[PAD]", "[CLS]", "[SEP]", "[BOS]", *(f"word{number}" for number in range(60))]
    known = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(words_models.WordLevel(known, "[PAD]"))
    tokenizer.add_special_tokens(words[:4])
    tokenizer.save(str(folder / "tokenizer.json"))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "projection_dim": 16}  # fmt: skip
    text = {"vocab_size": 64, "encoder_hidden_size": 32, "max_position_embeddings": 64,
            "pad_token_id": 0, "sep_token_id": 2, "eos_token_id": 2, "bos_token_id": 3}  # fmt: skip
    vision = {"image_size": 32, "patch_size": 8}
    config = BlipConfig(text_config=small | text, vision_config=small | vision,
                        image_text_hidden_size=16, projection_dim=16)  # fmt: skip
    model = BlipForConditionalGeneration(config).eval()
    drawn = torch.Generator().manual_seed(0)
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data.normal_(0, 0.5, generator=drawn)
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    preparation = {
        "size": {"height": 32, "width": 32}, "resample": 3, "rescale_factor": 1 / 255,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model, tokenizer


WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
         "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]  # fmt: skip


def qwen(folder: Path, *, shards: str = "5GB"):
    """A Qwen2-VL of two layers with seeded weights, in the form of the published files: a flat
    config.json, and the tensors' first names."""
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as words_models
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    folder.mkdir()
    plain = ["[UNK]", "Describe", "the", "hat", "red", "a", *(f"word{n}" for n in range(50))]
    words = [*WORDS, *plain]
    known = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(words_models.WordLevel(known, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(WORDS)
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {
        "model_type": "qwen2_vl", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 512, "vocab_size": len(words), "tie_word_embeddings": True,
        "bos_token_id": 0, "eos_token_id": 2, "image_token_id": 6, "video_token_id": 7,
        "vision_start_token_id": 3, "vision_end_token_id": 4, "vision_token_id": 5,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "rope_theta": 1000000.0,
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "in_chans": 3,
                          "mlp_ratio": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2,
                          "spatial_patch_size": 14, "temporal_patch_size": 2},
    }  # fmt: skip
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig.from_dict(json.loads(json.dumps(content)))
    )
    drawn = torch.Generator().manual_seed(0)
    for weights in model.eval().parameters():
        if weights.dim() > 1:
            weights.data.normal_(0, 0.4, generator=drawn)
    model.save_pretrained(folder, max_shard_size=shards)
    for path in folder.glob("*.safetensors"):
        save_file({first_name(name): each for name, each in load_file(path).items()}, path)
    if (index := folder / "model.safetensors.index.json").is_file():
        found = json.loads(index.read_text())
        found["weight_map"] = {first_name(k): v for k, v in found["weight_map"].items()}
        index.write_text(json.dumps(found))
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.01}')
    (folder / "preprocessor_config.json").write_text(json.dumps(QWEN_PREPARATION))
    return model, tokenizer


QWEN_PREPARATION = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


def first_name(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def description_of(path: Path, model, tokenizer, prompt: str) -> str:
    """What the model writes of a picture that transformers itself has prepared."""
    import torch
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    prepare = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 602112})
    with Image.open(path) as image:
        seen = prepare(image.convert("RGB"), return_tensors="pt")
    visual = "<|image_pad|>" * (int(seen["image_grid_thw"].prod()) // 4)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|>{visual}<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.inference_mode():
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=seen["pixel_values"],
            image_grid_thw=seen["image_grid_thw"], mm_token_type_ids=(ids == 6).int(),
            max_new_tokens=96, do_sample=False, eos_token_id=[2, 0], pad_token_id=0,
        )  # fmt: skip
    return tokenizer.decode(found[0, ids.shape[1] :].tolist(), skip_special_tokens=True)


def noisy_pictures(folder: Path, **sizes: tuple[int, int]) -> Path:
    folder.mkdir()
    drawn = np.random.default_rng(0)
    for name, (width, height) in sizes.items():
        values = drawn.integers(0, 255, (height // 7, width // 7, 3), np.uint8)
        Image.fromarray(values).resize((width, height)).save(folder / f"{name}.png")
    return folder

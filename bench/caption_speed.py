"""How long the models that draft captions take for a picture on this machine's CPU.

    python -m bench.caption_speed [--kind wd14|qwen] [--pictures N] [--threads N]

Their published sizes with random weights, which cost the same: the tagger is SwinV2-B at 448 px in
float32 by torch (onnxruntime runs the same layers), the describer Qwen2-VL-2B on a picture of 768
visual tokens that writes 60 tokens, a caption of 40 words. Qwen2-VL wants 10 GB of memory.
"""

import argparse
import time
from collections.abc import Callable

import torch

NUM_TOKENS = 60
VISUAL_TOKENS = 768


def tagger() -> Callable[[], object]:
    """wd-swinv2-tagger-v3: SwinV2-B, window 14, at 448 px, and 10,861 tags."""
    from transformers import Swinv2Config, Swinv2ForImageClassification

    config = Swinv2Config(
        image_size=448,
        window_size=14,
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        num_labels=10_861,
    )
    model = Swinv2ForImageClassification(config).eval()
    pixels = torch.rand(1, 3, 448, 448)
    return lambda: model(pixel_values=pixels)


def describer() -> Callable[[], object]:
    """Qwen2-VL-2B-Instruct, by the numbers of its config.json."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": True,
    }
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    model = Qwen2VLForConditionalGeneration(config).eval()
    side = 56  # patches; four of them are a visual token
    grid = torch.tensor([[1, 2 * VISUAL_TOKENS // (side // 2), side]])
    patches = torch.rand(int(grid.prod()), 3 * 2 * 14 * 14)
    picture = int(config.image_token_id)
    ids = torch.tensor([[1] * 20 + [picture] * (int(grid.prod()) // 4) + [1] * 40])

    def describe() -> object:
        more = {"mm_token_type_ids": (ids == picture).int()}
        return model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=patches,
            image_grid_thw=grid,
            min_new_tokens=NUM_TOKENS,
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            **more,
        )

    return describe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=("wd14", "qwen"), default="wd14")
    parser.add_argument("--pictures", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    taken = parser.parse_args()
    torch.set_num_threads(taken.threads)
    once = {"wd14": tagger, "qwen": describer}[taken.kind]()
    with torch.inference_mode():
        once()
        seconds: list[float] = []
        for _ in range(taken.pictures):
            started = time.perf_counter()
            once()
            seconds.append(time.perf_counter() - started)
    print(f"{taken.kind}, {taken.threads} threads: {sorted(seconds)[len(seconds) // 2]:.2f} s")


if __name__ == "__main__":
    main()

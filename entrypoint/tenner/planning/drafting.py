"""How long a run takes to draft the captions that its images lack. An estimate.

On a CPU both models were measured on two cores with random weights, which cost the same
(`python -m bench.caption_speed`), and are taken to go by the cores. On a card Qwen2-VL's language
model is Qwen2-1.5B; its makers published 40.89 tokens a second for it with transformers in bfloat16
on an A100 (Qwen2's "Speed Benchmark"), where such small models wait for the CPU that launches them,
so that other cards differ little. A caption is some 60 tokens, and the picture itself is encoded
in less than half a second.
"""

from tenner.dataset.captioning.models import Kind

_SECONDS_ON_A_CORE = {"wd14": 3.7, "qwen": 370.0}
"""For each picture on one core of a CPU: 1.84 and 186 s on two."""
_SECONDS_ON_A_CARD = {"qwen": 2.0}
"""The tagger runs on the CPU: the image's onnxruntime has no CUDA."""
_LOADING_SECONDS = {"wd14": 5.0, "qwen": 20.0}
"""Imports, and the reading of 0.5 and 4.4 GB from a disk; assumed."""


def drafting_seconds(kind: Kind, num_images: int, *, has_card: bool, num_cpus: float) -> float:
    """Seconds for the drafts of so many images, without the download of the model."""
    if num_images == 0:
        return 0.0
    on_card = _SECONDS_ON_A_CARD.get(kind) if has_card else None
    each = on_card or _SECONDS_ON_A_CORE.get(kind, 0.0) / max(1.0, num_cpus)
    return _LOADING_SECONDS.get(kind, 0.0) + each * num_images

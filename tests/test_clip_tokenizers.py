"""CLIP's tokenizers as the published ones: same numbers, same padding."""

from pathlib import Path

import pytest

from tenner.clip_tokenizers import NUM_TOKENS, PADDING, write_clip_tokenizers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_clip_tokenizers(tmp_path)


def test_captions_get_clips_own_numbers(folder: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "openai_clip-vit-large-patch14")
    assert len(tokenizer) == NUM_TOKENS
    # the ids that OpenAI's CLIP gives for its own example (README of the CLIP repository)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("", padding="max_length").input_ids[2] == 49407


def test_the_second_encoder_pads_with_zero(folder: Path) -> None:
    from transformers import CLIPTokenizer

    name = "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"
    assert name in PADDING
    tokenizer = CLIPTokenizer.from_pretrained(folder / name)
    assert tokenizer("", padding="max_length").input_ids[2:] == [0] * 75

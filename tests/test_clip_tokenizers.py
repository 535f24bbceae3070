"""CLIP's tokenizers as the published ones: same numbers, same padding."""

from pathlib import Path

import pytest

from tenner.base.tokenizers import (
    NUM_TOKENS,
    PADDING,
    open_clip_tokenizer,
    tokenizer_names,
    write_clip_tokenizers,
)
from tenner.base.tokenizers.counting import count_tokens, most_tokens
from tenner.core.family import Family


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


def test_sd2_has_its_tokenizer_where_sd_scripts_looks_for_it(folder: Path) -> None:
    from transformers import CLIPTokenizer

    name = "stabilityai/stable-diffusion-2".replace("/", "_")  # library/strategy_base.py
    tokenizer = CLIPTokenizer.from_pretrained(folder / name)
    assert tokenizer("", padding="max_length").input_ids[2:] == [0] * 75
    assert tokenizer.model_max_length == 77


@pytest.mark.parametrize(
    ("family", "padding"), [("sd1", (49407,)), ("sd2", (0,)), ("sdxl", (49407, 0))]
)
def test_the_built_in_trainer_pads_as_each_family_was_trained(
    folder: Path, family: Family, padding: tuple[int, ...]
) -> None:
    """OpenAI's encoder with the end mark; OpenCLIP's, of SD 2.x and SDXL's second, with zeros."""
    from tenner.engines.native.text import Tokenizer

    for name, pad in zip(tokenizer_names(family), padding, strict=True):
        (ids,) = Tokenizer(folder / name, 75)(["a photo of a cat"]).tolist()
        assert ids == [49406, 320, 1125, 539, 320, 2368, 49407, *[pad] * 70]


def test_a_tokenizer_in_one_file_gives_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    two_files = folder / "openai_clip-vit-large-patch14"
    tokenizer = open_clip_tokenizer(two_files)
    one_file = tmp_path / "one_file"
    tokenizer.save_pretrained(one_file)
    for name in ("vocab.json", "merges.txt"):
        (one_file / name).unlink(missing_ok=True)
    assert (one_file / "tokenizer.json").is_file()
    words = "A photo of SKS dog, très café"
    assert open_clip_tokenizer(one_file)(words).input_ids == tokenizer(words).input_ids


WORDS = (
    "sks cat, 1girl, masterpiece, best quality, (highres:1.2), don't, they've, o'clock's",
    "A PHOTO of an ultra-realistic Labrador-Retriever; 35mm f/1.8!!! ... --ar 16:9",
    "Crème brûlée naïve œuvre, Straße, ½ cup ⅓ x², Ⅳ times, № 5, 100°C, 50% off, $10",
    "قطة تنام على كرسي أحمر، صورة واضحة",
    "一只猫坐在红色的椅子上, 写真 ねこ カタカナ",
    "emoji 😀👍🏽 family 👨‍👩‍👧 ♥ → ∑ √2 snake_case__x @user #tag https://a.b/c?d=e",
    "pneumonoultramicroscopicsilicovolcanoconiosis qwrtzpsdfghjklyxcvbnm aaaaaaaaaaaaaaaaaa",
    "tab\tand  double  blanks\u00a0and\u200bzero width",
    "हिन्दी में लिखा हुआ, ภาษาไทย, עברית, Ελληνικά, русский язык",
    "",
)


@pytest.mark.parametrize("text", WORDS)
def test_tokens_are_counted_as_by_clips_tokenizer_without_its_libraries(
    folder: Path, text: str
) -> None:
    tokenizer = open_clip_tokenizer(folder / "openai_clip-vit-large-patch14")
    assert count_tokens(text) == len(tokenizer(text).input_ids) - 2
    assert count_tokens(text) <= most_tokens(text)

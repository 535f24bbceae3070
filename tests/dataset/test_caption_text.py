"""Caption files of any encoding, and what is wrong with captions as a whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenner.dataset.captions import Caption, find_caption_files
from tenner.dataset.judge_captions import has_trigger, judge_captions, with_trigger
from tenner.dataset.listing import classify
from tenner.dataset.text import CaptionUnreadable, read_caption


@pytest.mark.parametrize(
    ("data", "text", "guessed"),
    [
        (b"a cat", "a cat", False),
        (bytes.fromhex("636166e920 9273"), "café ’s", True),
        ("a café".encode("utf-16"), "a café", False),
        ("a cat".encode("utf-16-le"), "a cat", False),
        ("\ufeffa cat\r\n".encode(), "a cat", False),
        ("赤い帽子をかぶった猫".encode("cp932"), "赤い帽子をかぶった猫", True),
        ("😀 قطة على 桌子".encode(), "😀 قطة على 桌子", False),
        ("cafe\u0301\ta\u200b  b".encode(), "café a b", False),
        ("👨\u200d👩\u200d👧".encode(), "👨\u200d👩\u200d👧", False),
        (b"", "", False),
    ],
)
def test_bytes_become_one_clean_line(data, text, guessed):
    found = read_caption(data)
    assert found.first_line == text
    assert found.guessed == guessed


@pytest.mark.parametrize(
    ("data", "offset"), [(b"a cat\x00\x01", 5), (b"\xff\xfea\x00\x00\xd8b\x00", 4)]
)
def test_what_is_no_text_is_refused_with_its_place(data, offset):
    with pytest.raises(CaptionUnreadable) as refused:
        read_caption(data)
    assert refused.value.offset == offset


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_valid_text_or_refused(data):
    try:
        found = read_caption(data)
    except CaptionUnreadable:
        return
    for line in found.lines:
        line.encode("utf-8")
        assert "\n" not in line


def files(*paths: str, expected: str | None = None):
    entries = [classify(path, 1) for path in paths]
    images = [entry for entry in entries if entry.kind == "image"]
    return find_caption_files(images, entries, expected)


@pytest.mark.parametrize("caption", ["a.txt", "a.caption", "A.TXT", "a.png.txt"])
def test_a_caption_is_found_by_any_of_its_names(caption):
    assert files("a.png", caption).by_image["a.png"].path == caption


def test_of_two_extensions_the_one_that_covers_more_is_read_and_reported():
    found = files("a.png", "b.png", "a.txt", "a.caption", "b.caption")
    assert found.by_image["a.png"].path == "a.caption"
    assert [each.kind for each in found.findings] == ["two_captions"]


def test_an_extension_that_was_requested_is_the_only_one():
    found = files("a.png", "b.png", "a.txt", "b.caption", expected="txt")
    assert list(found.by_image) == ["a.png"]
    assert "b.caption" in found.used


def test_two_images_of_one_name_share_a_caption_and_it_is_reported():
    found = files("a.png", "a.jpg", "a.txt")
    assert len(found.by_image) == 2
    assert "shared_caption" in [each.kind for each in found.findings]


def judged(texts, trigger="sks toy", **more):
    captions = {f"{n}.png": Caption(text=text, file="x") for n, text in enumerate(texts)}
    settings = {"extension": ".txt", "add_trigger": False, "max_token_length": 75} | more
    found = judge_captions(captions, triggers=dict.fromkeys(captions, trigger), **settings)
    return {each.kind: each for each in found}


def test_the_trigger_must_stand_letter_for_letter():
    assert has_trigger("a sks toy, red", "sks toy")
    assert not has_trigger("a sks toys", "sks toy")
    found = judged(["a sks toy", "a Sks_Toy on a table", "a ball"])["trigger_missing"]
    assert "2 of 3 captions" in found.text
    assert '"Sks_Toy" 1 times' in found.text
    assert found.files == ("1.png", "2.png")


def test_a_trigger_is_added_in_front_once():
    assert with_trigger("a ball", "sks toy") == "sks toy, a ball"
    assert with_trigger("a sks toy", "sks toy") == "a sks toy"


def test_captions_longer_than_clip_reads():
    found = judged(["sks toy " + "word " * 80, "a toy"])["caption_long"]
    assert "the longest has 82" in found.text
    assert found.files == ("0.png",)
    no_words = "".join(f"qzx{number}" for number in range(40))  # few pieces, many tokens
    assert "caption_long" in judged([no_words])
    assert "max_token_length = 150" in found.fix
    assert "caption_long" not in judged(["sks toy " + "word " * 80], max_token_length=150)


def test_the_same_caption_everywhere_is_reported():
    assert "caption_boilerplate" in judged(["a sks toy"] * 10)
    assert "caption_boilerplate" not in judged([f"a sks toy {n}" for n in range(10)])

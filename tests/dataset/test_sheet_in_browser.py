"""The contact sheet in a real Chromium, judged by axe-core."""

from pathlib import Path
from typing import Any

import pytest
from pictures import picture, write_set
from PIL import Image, ImageFilter

from tenner.dataset import DatasetRequest
from tenner.dataset.check import check
from tenner.dataset.sheet import write_sheet
from tests.browsing import WIDTHS, browser, faults, needs_chromium, opened

__all__ = ["browser"]
pytestmark = needs_chromium


def sheet_of(folder: Path, to: Path) -> Path:
    request = DatasetRequest(
        source=str(folder), resolution=(64, 64), min_bucket_reso=32, max_bucket_reso=128,
        bucket_reso_steps=8, num_workers=1,
    )  # fmt: skip
    write_sheet(check(request, to.with_suffix(".thumbs")), to)
    return to


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Odd shapes, a name without breaks, captions of other scripts and of markup."""
    root = tmp_path_factory.mktemp("sheet")
    folder = root / "10_toy"
    write_set(folder, 5)
    (folder / "img001.txt").write_text("قطة تجلس على السور, a sks toy")
    (folder / "img002.txt").write_text("<script>document.title = 'run'</script>" + "w" * 300)
    picture(9, (400, 40)).save(folder / f"{'long' * 40}.png")
    picture(10, (40, 400)).save(folder / "tall.png")
    (folder / "broken.png").write_bytes(b"x")
    return sheet_of(folder, root / "sheet.html")


@pytest.fixture(scope="module")
def uncaptioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures without a caption; two are one file, one nearly the same as them, one is blurred."""
    root = tmp_path_factory.mktemp("uncaptioned")
    folder = root / "toys"
    folder.mkdir()
    for number in range(7):
        picture(number, (160, 120)).save(folder / f"img{number:03d}.png")
    (folder / "zz.png").write_bytes((folder / "img000.png").read_bytes())
    with Image.open(folder / "img000.png") as image:
        image.convert("RGB").save(folder / "near.jpg", quality=90)
    with Image.open(folder / "img001.png") as image:
        image.filter(ImageFilter.GaussianBlur(8)).save(folder / "soft.png")
    return sheet_of(folder, root / "uncaptioned.html")


@pytest.mark.parametrize(("locale", "scheme"), [("en-US", "light"), ("ar-EG", "dark")])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_and_axe_is_content(
    browser: Any, sheet: Path, width: int, locale: str, scheme: str
) -> None:
    with opened(browser, sheet, width=width, locale=locale, scheme=scheme) as page:
        assert page.title() == "Dataset contact sheet"
        assert page.evaluate("[document.documentElement.lang, document.documentElement.dir]") == [
            locale[:2],
            "rtl" if locale == "ar-EG" else "ltr",
        ]
        assert faults(page) == []


def test_the_frame_lies_on_what_is_kept(browser: Any, sheet: Path) -> None:
    with opened(browser, sheet, width=390) as page:
        shares = page.evaluate(
            """() => [...document.querySelectorAll(".frame")].map(frame => {
                const picture = frame.querySelector("img").getBoundingClientRect();
                const cut = (frame.querySelector(".cut") || frame).getBoundingClientRect();
                const inside = cut.left >= picture.left - 1 && cut.right <= picture.right + 1
                    && cut.top >= picture.top - 1 && cut.bottom <= picture.bottom + 1;
                return [inside, cut.width * cut.height / (picture.width * picture.height)];
            })"""
        )
    assert len(shares) == 7
    assert all(inside for inside, _ in shares)
    assert min(share for _, share in shares) < 0.5 < max(share for _, share in shares) <= 1.01


def border(page: Any, name: str) -> str:
    """The colour around a picture's card."""
    card = page.locator(f".card:has-text('{name}')")
    color: str = card.evaluate("each => getComputedStyle(each).borderTopColor")
    return color


def test_missing_captions_frame_no_picture_and_blurred_and_doubled_ones_stand_out(
    browser: Any, uncaptioned: Path
) -> None:
    with opened(browser, uncaptioned) as page:
        assert page.locator(".card.k-captions_missing").count() == 10, "all of them"
        plain = border(page, "img004.png")
        assert {border(page, f"img00{n}.png") for n in (2, 3, 5, 6)} == {plain}
        assert plain != border(page, "soft.png") == border(page, "img000.png")


def test_doubles_stand_together(browser: Any, uncaptioned: Path) -> None:
    with opened(browser, uncaptioned) as page:
        group = page.locator(".group")
        assert group.count() == 1
        names = group.locator(".name").all_inner_texts()
        assert sorted(names) == ["img000.png", "near.jpg", "zz.png"]
        assert page.locator(".card .name").count() == 10


def test_what_was_found_is_filtered_from_the_keyboard(browser: Any, uncaptioned: Path) -> None:
    with opened(browser, uncaptioned) as page:
        page.focus("#f-all")
        shown: dict[str, set[str]] = {}
        for _ in range(page.locator(".filters input").count()):
            page.keyboard.press("ArrowRight")
            kind = page.evaluate("document.querySelector('.filters :checked').id")
            visible = page.locator(".card:visible .name").all_inner_texts()
            shown[kind.removeprefix("f-")] = set(visible)
            told = page.locator(f".filters label:has(#{kind}) bdi").inner_text()
            assert int(told) == len(visible), "each filter says how many it shows"
        assert shown["blurred"] == {"soft.png"}
        assert shown["duplicate"] == {"img000.png", "zz.png"}
        assert shown["near_duplicate"] >= {"img000.png", "near.jpg"}
        assert len(shown["all"]) == 10

"""The demo's number: small for real pictures of the concept, large for anything else."""

from pathlib import Path

import pytest
from PIL import Image

from scripts.tiny_base.concept import HELD_OUT_BACKGROUNDS, concept_picture, held_out_pictures
from scripts.tiny_base.pictures import Picture, background_cells
from tenner.base.tiny import base_dir, concept_dir, held_out, regularisation_dir
from tenner.cli.measure import concept_distance, picture_distance


@pytest.fixture
def real() -> list[Image.Image]:
    return [each.picture.image() for each in held_out_pictures()]


def test_the_same_pictures_are_at_no_distance(real: list[Image.Image]) -> None:
    assert concept_distance(real, real) == 0


def test_the_concept_elsewhere_in_the_picture_is_near(real: list[Image.Image]) -> None:
    elsewhere = [
        concept_picture(100 + number, name, seed=77).picture.image()
        for number, name in enumerate(HELD_OUT_BACKGROUNDS)
    ]
    assert 1 < concept_distance(elsewhere, real) < 4


def test_the_background_alone_is_far(real: list[Image.Image]) -> None:
    empty = [
        Picture(cells=background_cells(name), caption="").image() for name in HELD_OUT_BACKGROUNDS
    ]
    assert concept_distance(empty, real) > 20


def test_distance_is_symmetric(real: list[Image.Image]) -> None:
    one, other = real[0], real[1]
    assert picture_distance(one, other) == pytest.approx(picture_distance(other, one))


def test_sets_of_different_length_are_refused(real: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="as many"):
        concept_distance(real[:2], real[:3])
    with pytest.raises(ValueError, match="at least one"):
        concept_distance([], [])


def test_the_shipped_pictures_are_those_of_the_script() -> None:
    shipped = [(Image.open(path).convert("RGB"), caption) for path, caption in held_out()]
    made = [(each.picture.image(), each.picture.caption) for each in held_out_pictures()]
    assert [caption for _, caption in shipped] == [caption for _, caption in made]
    assert all(a.tobytes() == b.tobytes() for (a, _), (b, _) in zip(shipped, made, strict=True))


def test_no_held_out_picture_is_trained_on() -> None:
    trained = {path.read_bytes() for path in concept_dir().rglob("*.png")}
    assert len(trained) == 20
    assert not trained & {path.read_bytes() for path, _ in held_out()}
    assert len(list(regularisation_dir().rglob("*.png"))) == 20


def test_the_tiny_base_is_small() -> None:
    size = sum(path.stat().st_size for path in Path(base_dir()).rglob("*") if path.is_file())
    assert size < 12_000_000

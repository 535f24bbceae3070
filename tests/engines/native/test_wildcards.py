"""Captions with wildcards: a random line and choice, the same in every attempt of a run."""

from tenner.core.train_job import TrainJob
from tenner.engines.native.captions import draw_caption

CAPTION = "a {red|blue} star\na star {{as is}} x"


def job(**more) -> TrainJob:
    return TrainJob(
        base="b", family="sd1", items=(), output_dir="o", output_name="n", state_dir="s", **more
    )


def captions(of: TrainJob) -> list[str]:
    return [draw_caption(of, CAPTION, epoch=0, position=index) for index in range(60)]


def test_without_wildcards_the_caption_is_its_first_line() -> None:
    assert set(captions(job())) == {"a {red|blue} star"}


def test_wildcards_take_every_choice_and_repeat_in_a_second_attempt() -> None:
    found = captions(job(enable_wildcard=True))
    assert set(found) == {"a red star", "a blue star", "a star {as is} x"}
    assert found == captions(job(enable_wildcard=True))

"""Captions with wildcards: one line, one word of each choice, the same in every attempt of a
run."""

from tenner.core.train_job import TrainJob
from tenner.engines.native.captions import draw_caption

CAPTION = "a {red|blue} star\na star {{as is}} x"


def job(**more) -> TrainJob:
    return TrainJob(
        base="b", family="sd1", items=(), output_dir="o", output_name="n", state_dir="s", **more
    )


def drawn(requests: TrainJob) -> list[str]:
    return [draw_caption(requests, CAPTION, epoch=0, position=index) for index in range(60)]


def test_without_wildcards_the_first_line_is_shown_as_written() -> None:
    assert set(drawn(job())) == {"a {red|blue} star"}


def test_with_them_every_wording_is_shown_and_a_second_attempt_shows_the_same() -> None:
    found = drawn(job(enable_wildcard=True))
    assert set(found) == {"a red star", "a blue star", "a star {as is} x"}
    assert found == drawn(job(enable_wildcard=True))

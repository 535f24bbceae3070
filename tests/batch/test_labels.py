"""Jobs of a batch are named by what differs between them."""

from pathlib import Path
from typing import Any

import pytest

from tenner.queue.jobs import read_batch
from tenner.queue.labels import JobLabel, job_labels
from tenner.queue.record import JobRecord, new_record


def record(name: str, **swept: Any) -> JobRecord:
    return JobRecord(name=name, run=name, digest=name, swept=swept or None)


def test_jobs_of_a_sweep_are_named_by_their_settings_alone() -> None:
    found = job_labels(
        [
            record(f"dog-learning_rate-{rate:g}-network_dim-8", learning_rate=rate, network_dim=8)
            for rate in (1e-4, 2e-4)
        ]
    )
    assert [each.text for each in found.values()] == [
        "learning_rate 0.0001",
        "learning_rate 0.0002",
    ], "what is the same in both is left out"


def test_a_sweep_in_a_file_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "portrait_of_the_dog.toml"
    path.write_text('dataset = "x"\n[sweep]\nlearning_rate = [1e-4, 4e-4]\nnetwork_dim = [8, 32]\n')
    jobs = read_batch(path, {}, {}).jobs
    found = job_labels([new_record(each, tmp_path / each.settings.output_name) for each in jobs])
    assert [each.name for each in found.values()] == [""] * 4
    assert [dict(each.pairs) for each in found.values()] == [
        {"learning_rate": rate, "network_dim": dim}
        for rate in ("0.0001", "0.0004")
        for dim in ("8", "32")
    ]


def test_two_swept_jobs_keep_their_names_too() -> None:
    found = job_labels(
        [
            record(f"{name}-network_dim-{dim}", network_dim=dim)
            for name in ("dog", "cat")
            for dim in (8, 16)
        ]
    )
    assert [each.text for each in found.values()] == [
        "dog, network_dim 8",
        "dog, network_dim 16",
        "cat, network_dim 8",
        "cat, network_dim 16",
    ]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("dog", "cat"), ["dog", "cat"]),
        (("dog_a", "dog_b"), ["dog_a", "dog_b"]),
        (
            ("portrait_of_the_neighbour_dog", "portrait_of_the_neighbour_cat"),
            ["…dog", "…cat"],
        ),
        (
            ("portrait_of_the_neighbour", "portrait_of_the_neighbour_2"),
            ["…neighbour", "…neighbour_2"],
        ),
        (("a-name-of-more-than-24-letters",), ["a-name-of-more-than-24-letters"]),
    ],
)
def test_long_names_lose_the_words_that_all_begin_with(
    names: tuple[str, ...], shown: list[str]
) -> None:
    assert [each.text for each in job_labels([record(name) for name in names]).values()] == shown


def test_labels_are_never_alike() -> None:
    records = [record("a-clip_skip-1", clip_skip=1), record("b-clip_skip-1", clip_skip=1)]
    assert job_labels(records) == {
        "a-clip_skip-1": JobLabel(name="a"),
        "b-clip_skip-1": JobLabel(name="b"),
    }
    assert job_labels([]) == {}

"""A run whose machine is gone resumes from its destination, and no other run is taken for it."""

import json
import shutil
from pathlib import Path

import pytest
from program import Machine, StandIn, same_weights

STEPS = ("--max_train_steps", "20", "--save_every_n_steps", "4")


@pytest.mark.long
def test_on_an_empty_machine_it_resumes_from_the_destination_to_the_same_weights(
    tmp_path: Path,
) -> None:
    whole, first, second = (Machine(tmp_path / name) for name in ("whole", "first", "second"))
    assert whole.finish(*whole.train("star", *STEPS)) == 0, whole.output
    args = (*STEPS, "--destinations", f"file://{tmp_path}/stored")
    first.cut(first.train("star", *args), lambda: len(first.events("star", "sent")) >= 4)
    last = max(each["step"] for each in first.events("star", "sent") if each["what"] == "state")
    shutil.rmtree(first.folder)

    assert second.finish(*second.train("star", *args)) == 0, second.output
    steps = [each["step"] for each in second.events("star", "step")]
    assert sorted(set(steps)) == list(range(1, 21)), "the curve holds every step of both attempts"
    assert f"resuming from step {last}" in second.output
    assert second.output.count("step 1/20") == 0
    final = "checkpoints/star.safetensors"
    assert same_weights(second.run("star") / final, whole.run("star") / final)
    manifest = json.loads((tmp_path / "stored" / "manifest.json").read_text())
    names = {each["name"] for each in manifest["files"]}
    assert {f"checkpoints/star-step{step:08d}.safetensors" for step in (4, 8, 12, 16)} <= names
    assert [attempt["ending"] for attempt in second.ledger("star")["attempts"]] == ["", "delivered"]
    assert not list((tmp_path / "stored" / ".tenner").rglob("complete.json")), "states have served"

    third = Machine(tmp_path / "third")
    assert third.finish(*third.train("star", *args)) == 0, third.output
    assert "delivered before" in third.output
    assert "loading" not in third.output, "what was delivered is not trained again anywhere"


@pytest.mark.long
def test_another_job_at_the_destination_is_refused_with_the_difference_or_started_afresh(
    tmp_path: Path,
) -> None:
    first, second = Machine(tmp_path / "first"), Machine(tmp_path / "second")
    args = (
        *("--max_train_steps", "4", "--save_every_n_steps", "2"),
        *("--destinations", f"file://{tmp_path}/stored"),
    )
    first.cut(first.train("star", *args), lambda: len(first.events("star", "sent")) >= 2)
    assert second.finish(*second.train("star", *args, "--seed", "7")) == 2
    assert "seed: 42 → 7" in second.output
    assert second.finish(*second.train("star", *args, "--seed", "7", "--restart")) == 0
    assert [each["step"] for each in second.events("star", "step")] == [1, 2, 3, 4]


def test_another_card_resumes_the_same_images_in_a_step(tmp_path: Path) -> None:
    """And at the rate for these images: what this card's own batch would have is not taken."""
    args = ("--max_train_epochs", "8", "--save_every_n_steps", "4", "--lr_batch_size", "1")
    to = ("--destinations", f"file://{tmp_path}/stored")
    first = StandIn(tmp_path / "first", STAND_IN="crashed", STAND_IN_STEPS="9")
    assert first.finish(*first.train("cat", *args, *to)) == 5
    second = StandIn(tmp_path / "second", card="NVIDIA GeForce RTX 3090")
    assert second.finish(*second.train("cat", *args, *to)) == 0, second.output
    keys = ("train_batch_size", "gradient_accumulation_steps", "learning_rate")
    [on_4090], [on_3090] = (
        [tuple(each[key] for key in keys) for each in machine.commands("cat")]
        for machine in (first, second)
    )
    assert (on_4090, on_3090) == (
        ("4", "1", "0.0002"),
        ("2", "2", "0.0002"),
    )
    assert second.commands("cat")[0]["resume"].endswith("step-00000008")
    assert second.ledger("cat")["finished"]["file"]["step"] == 40
    third = StandIn(tmp_path / "third")
    longer = ("--max_train_epochs", "9", *args[2:])
    assert third.finish(*third.train("cat", *longer, *to)) == 2
    assert "it cannot be extended" in third.output  # states go once a run is delivered

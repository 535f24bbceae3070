"""Gradient checkpointing of some of the U-Net's blocks: planned where it trains faster."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bench.traced_memory import levels, stored_rows
from tenner.base.inspection import inspect_base
from tenner.core.family import Family
from tenner.core.run_dir import RunDir
from tenner.hardware.cards.measured import Trainer
from tenner.pipeline.start import train_job
from tenner.planning.batch_choice import CardMemory, Wish
from tenner.planning.checkpointing import LEVELS, num_blocks, shares_of
from tenner.planning.plan import Plan, RunFacts, Shape, plan_run
from tenner.planning.sizing import MIN_GAIN, choose_batch, seconds_per_image
from tenner.planning.speed import modelled_seconds
from tenner.planning.vram import Load, largest_batch, needed_gb
from tenner.runs.fingerprint import fingerprint
from tenner.settings import Settings
from tenner.supervision.oom_fallback import next_rung
from tests.hardware.program import photos, sparse_base, tenner
from tests.train_options import train_options

SDXL = Load(family="sdxl", pixels=1024**2, network_dim=32, engine="native")
RTX_3060 = CardMemory(name="NVIDIA GeForce RTX 3060", free_mib=11800)
PLENTY = Wish(most_images=100)


@pytest.mark.long
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_levels_are_those_of_the_stored_traces_and_the_counted_blocks(family: Family) -> None:
    assert levels(family) == list(LEVELS[family])


@pytest.mark.long
def test_the_levels_of_sd2_are_those_of_sd1() -> None:
    for found, taken in zip(levels("sd2"), LEVELS["sd2"], strict=True):
        assert found.memory == pytest.approx(taken.memory, abs=0.001)
        assert replace(found, memory=taken.memory) == taken


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_more_blocks_free_more_and_cost_more(family: Family) -> None:
    number = num_blocks(family)
    found = [shares_of(family, each) for each in range(number + 1)]
    for name in ("memory", "work", "kernels"):
        values = [getattr(each, name) for each in found]
        assert (values[0], values[-1]) == (0, 1)
        assert all(before < after for before, after in pairwise(values))
    assert shares_of(family, number + 5) == found[-1]


def test_the_traced_rows_have_levels_and_numbers_between_them() -> None:
    rows = [row for row in stored_rows() if "blocks" in row]
    for family in ("sd1", "sdxl"):
        own = [row for row in rows if row["family"] == family]
        known = {each.blocks for each in LEVELS[family]}
        assert {row["blocks"] for row in own} - known, "the straight line is held too"
        assert len({row["rank"] for row in own}) > 2
        assert len({row["batch"] for row in own}) > 1
        assert {row["text"] for row in own} == {True, False}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_no_block_takes_the_time_of_none_and_every_block_that_of_all(family: Family) -> None:
    def seconds(on: bool, blocks: int | None = None) -> float:
        return modelled_seconds(
            replace(SDXL, family=family),
            peak_tflops=100,
            batch_size=2,
            gradient_checkpointing=on,
            checkpointed_blocks=blocks,
        )

    found = [seconds(True, each) for each in range(num_blocks(family) + 1)]
    assert found[0] == pytest.approx(seconds(False))
    assert found[-1] == pytest.approx(seconds(True))
    assert found == sorted(found)


def test_a_small_card_recomputes_as_few_blocks_as_fit_where_that_is_faster() -> None:
    choice = choose_batch(SDXL, RTX_3060, PLENTY)
    number = choice.checkpointed_blocks
    assert number is not None
    assert (choice.gradient_checkpointing, choice.is_unsure) == (True, False)

    def needed(blocks: int) -> float:
        return needed_gb(
            SDXL,
            batch_size=choice.batch_size,
            gradient_checkpointing=True,
            checkpointed_blocks=blocks,
        )

    assert choice.needed_gb == needed(number)
    assert needed(number) <= RTX_3060.usable_gb < needed(number - 1)
    seconds = seconds_per_image(SDXL, RTX_3060, choice.batch_size, True, number)
    batch = largest_batch(SDXL, free_gb=RTX_3060.usable_gb, gradient_checkpointing=True)
    of_all = seconds_per_image(SDXL, RTX_3060, min(batch, 8), True)
    assert seconds < of_all
    assert f"with all of them would take {of_all / seconds - 1:.0%}" in choice.why_checkpointing


@pytest.mark.parametrize(("size", "free_mib"), [(1, 11800), (2, 14000), (3, 16000)])
def test_a_batch_that_is_set_recomputes_as_few_blocks_as_fit(size: int, free_mib: int) -> None:
    card = replace(RTX_3060, name="some card", free_mib=free_mib)
    choice = choose_batch(SDXL, card, replace(PLENTY, batch_size=size))
    assert choice.batch_size == size
    assert choice.checkpointed_blocks is not None
    assert not choice.is_unsure
    busier = replace(card, correction=1.05)
    more = choose_batch(SDXL, busier, replace(PLENTY, batch_size=size)).checkpointed_blocks
    assert more is None or more > choice.checkpointed_blocks


@pytest.mark.parametrize(
    ("load", "wish"),
    [
        (replace(SDXL, engine="sd-scripts"), PLENTY),
        (SDXL, replace(PLENTY, gradient_checkpointing=True)),
        (SDXL, replace(PLENTY, gradient_checkpointing=False)),
    ],
)
def test_all_or_none_for_sd_scripts_and_where_the_user_set_it(load: Load, wish: Wish) -> None:
    card = replace(RTX_3060, free_mib=16000)
    for batch_size in ("auto", "max", 1):
        choice = choose_batch(load, card, replace(wish, batch_size=batch_size))
        assert choice.checkpointed_blocks is None


def images_a_second(load: Load, card: CardMemory, size: int, blocks: int | None) -> float:
    """With so many blocks recomputed; None is all."""
    return 1 / seconds_per_image(load, card, size, blocks != 0, blocks)


@pytest.mark.parametrize(
    ("name", "free_mib", "batch_size"),
    [
        ("NVIDIA GeForce RTX 5090", 30800, 3),
        ("Tesla V100", 15400, 1),
        ("Quadro RTX 6000", 23100, 2),
        ("TITAN V", 11550, 5),
    ],
)
def test_a_gain_within_the_time_models_error_changes_nothing(
    name: str, free_mib: int, batch_size: int
) -> None:
    """A row whose batch would change for a few per cent: all or none stay, and the plan says what
    recomputing some of the blocks would gain."""
    card = CardMemory(name=name, free_mib=free_mib)
    choice = choose_batch(SDXL, card, PLENTY)
    assert (choice.batch_size, choice.checkpointed_blocks) == (batch_size, None)
    kept = images_a_second(SDXL, card, batch_size, None if choice.gradient_checkpointing else 0)
    gains: dict[str, float] = {}
    for size in range(1, 9):
        needs_checkpointing = largest_batch(
            SDXL, free_gb=card.usable_gb, gradient_checkpointing=False
        )
        for blocks in range(1, num_blocks("sdxl")):
            most = largest_batch(
                SDXL,
                free_gb=card.usable_gb,
                gradient_checkpointing=True,
                checkpointed_blocks=blocks,
            )
            if needs_checkpointing < size <= most:
                words = f"batch {size} with {blocks} blocks recomputed"
                gains[words] = images_a_second(SDXL, card, size, blocks) / kept - 1
                break
    best = max(gains, key=lambda words: gains[words])
    assert 0 < gains[best] < MIN_GAIN
    assert f"{best} would train {gains[best]:.0%} more" in choice.why_checkpointing


@pytest.mark.parametrize("free_mib", range(8000, 31000, 500))
def test_some_blocks_are_recomputed_only_for_a_gain_above_the_models_error(free_mib: int) -> None:
    card = replace(RTX_3060, free_mib=free_mib)
    choice = choose_batch(SDXL, card, PLENTY)
    if choice.checkpointed_blocks is None:
        return
    chosen = images_a_second(SDXL, card, choice.batch_size, choice.checkpointed_blocks)
    for recomputes in (False, True):
        most = largest_batch(SDXL, free_gb=card.usable_gb, gradient_checkpointing=recomputes)
        if most:
            other = images_a_second(SDXL, card, min(most, 8), None if recomputes else 0)
            assert chosen >= other * (1 + MIN_GAIN)


def test_a_batch_that_is_set_recomputes_all_where_some_would_gain_little() -> None:
    """A card that leaves so little that nearly all blocks are recomputed anyway."""
    needed = needed_gb(
        SDXL, batch_size=2, gradient_checkpointing=True, checkpointed_blocks=num_blocks("sdxl") - 4
    )
    card = replace(RTX_3060, name="some card", free_mib=int(needed / 0.92 * 1e9 / 2**20) + 2)
    choice = choose_batch(SDXL, card, replace(PLENTY, batch_size=2))
    assert (choice.gradient_checkpointing, choice.checkpointed_blocks) == (True, None)


@pytest.mark.parametrize("engine", ["native", "sd-scripts"])
def test_nobody_set_the_checkpointing_of_the_least_that_may_fit(engine: Trainer) -> None:
    load = replace(SDXL, network_dim=128, engine=engine)
    card = replace(RTX_3060, free_mib=11800 if engine == "native" else 10500)
    choice = choose_batch(load, card, PLENTY)
    assert (choice.batch_size, choice.is_unsure, choice.gradient_checkpointing) == (1, True, True)
    assert choice.why_checkpointing == "not one image fits without it"
    its_own = choose_batch(load, card, replace(PLENTY, gradient_checkpointing=True))
    assert its_own.why_checkpointing == "as set"


def test_out_of_memory_recomputes_all_blocks_after_the_batch_was_halved() -> None:
    options = train_options(train_batch_size=2, gradient_checkpointing=True, checkpointed_blocks=9)
    tried: list[dict[str, object]] = []
    while rung := next_rung(options, Settings()):
        options = options.with_changed(rung.changed)
        tried.append(dict(rung.changed))
    assert tried == [
        {"train_batch_size": 1, "gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True, "checkpointed_blocks": None},
    ]


def plan_of(folder: Path, checkpointed_blocks: int | None) -> Plan:
    base = inspect_base(sparse_base(folder) / "sd15.safetensors", name="sd15")
    return plan_run(
        Settings(output_name="cat", max_train_steps=5),
        RunFacts(
            engine="native",
            base=base,
            device="cuda",
            gpu="NVIDIA GeForce RTX 4090",
            resolution=(512, 512),
            batches_per_epoch=20,
        ),
        Shape(
            batch_size=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing=True,
            checkpointed_blocks=checkpointed_blocks,
            mixed_precision="bf16",
            attention="sdpa",
            num_workers=0,
        ),
        optimizer_type="AdamW",
    )


def test_the_number_reaches_the_trainer_and_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    some, whole = (plan_of(tmp_path, each) for each in (9, None))
    run_dir = RunDir(tmp_path / "run")
    jobs = [train_job(each, run_dir, items=(), num_threads=None) for each in (some, whole)]
    assert [each.checkpointed_blocks for each in jobs] == [9, None]
    marks = [fingerprint(each, Settings(), dataset="x") for each in (some, whole)]
    assert marks[0] == marks[1]


def test_the_comparison_of_cards_names_the_number(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 4, 1024)
    words = ("photos", "--base_model", "sdxl", "--engine", "native", "--gpu", "RTX 3060")
    words = ("plan", *words, "--network_train_unet_only", "true", "--batch_size", "1")
    done = tenner(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (offer, *_) = json.loads(done.stdout)["offers"]
    number = offer["checkpointed_blocks"]
    assert 0 < number < num_blocks("sdxl")
    shown = tenner(*words, cwd=tmp_path)
    assert f" 1g{number} " in shown.stdout


def test_the_batch_that_some_blocks_allow_scales_the_rate_and_is_marked(tmp_path: Path) -> None:
    """Recomputing some of the blocks takes an RTX 3060 from batch 5 to 1: five times as many
    updates, at the rate for one image."""
    photos(tmp_path / "photos", 20, 1024)
    words = ("plan", "photos", "--base_model", "sdxl", "--engine", "native", "--json")
    words = (*words, "--network_train_unet_only", "true")
    words = (*words, "--gpu", "RTX 3060", "--gpu", "RTX 4090", "--max_train_epochs", "2")
    for more, factor, marks in ((), 0.5**0.5, []), (("--scale_lr", "none"), 1, ["batch"]):
        done = tenner(*words, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        offers = {each["card"]: each for each in json.loads(done.stdout)["offers"]}
        small, large = offers["RTX 3060"], offers["RTX 4090"]
        assert small["checkpointed_blocks"]
        assert (small["batch_size"], large["batch_size"]) == (1, 2)
        assert small["num_steps"] == 2 * large["num_steps"]
        assert small["learning_rate"] == pytest.approx(large["learning_rate"] * factor, rel=0.01)
        assert (small["unlike"], large["unlike"]) == (marks, [])

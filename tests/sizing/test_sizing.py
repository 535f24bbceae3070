"""Batch and checkpointing: the guide's numbers on its cards, the two models elsewhere."""

from dataclasses import replace
from typing import Literal

import pytest

from tenner.core.errors import MachineError, SettingsError
from tenner.core.family import Family
from tenner.hardware.cards import card_named
from tenner.planning.batch_choice import BatchChoice, CardMemory, Wish
from tenner.planning.shaping import Ground, choose_precision, choose_workers, shape_run
from tenner.planning.sizing import choose_batch, fill_up, seconds_per_image
from tenner.planning.vram import Load, largest_batch, needed_gb
from tenner.settings import Settings

RTX_4090 = CardMemory(name="NVIDIA GeForce RTX 4090", free_mib=24000)
A5000 = CardMemory(name="NVIDIA RTX A5000", free_mib=24000)
PLENTY = Wish(most_images=1000)


def load(family: Family = "sd1", *, dim: int = 32, text: bool = True) -> Load:
    side = 1024 if family == "sdxl" else 512
    return Load(family=family, pixels=side * side, network_dim=dim, text_encoder_trained=text)


def ground(
    card: CardMemory = RTX_4090,
    *,
    engine: Literal["sd-scripts", "native"] = "sd-scripts",
    broken: dict[str, str] | None = None,
    shm_mib: int = 2048,
) -> Ground:
    return Ground(
        device="cuda",
        card=card,
        capability=(8, 9),
        engine=engine,
        family="sd1",
        is_tiny=False,
        resolution=(512, 512),
        buckets={(512, 512): 200, (448, 576): 300},
        cpus=8,
        shm_mib=shm_mib,
        broken=broken,
    )


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(
    ("gpu", "total_mib", "family", "batch"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, "sd1", 4),
        ("NVIDIA GeForce RTX 4090", 24564, "sdxl", 2),
        ("NVIDIA GeForce RTX 3090", 24576, "sd1", 2),
        ("NVIDIA GeForce RTX 3090", 24576, "sdxl", 1),
        ("NVIDIA A100-PCIE-40GB", 40960, "sd1", 8),
        ("NVIDIA A100-SXM4-40GB", 40960, "sdxl", 4),
    ],
)
def test_the_guides_batches_on_the_guides_cards(
    gpu: str, total_mib: int, family: Family, batch: int, text: bool
) -> None:
    card = CardMemory(name=gpu, free_mib=total_mib - 500)
    choice = choose_batch(load(family, text=text), card, PLENTY)
    assert choice.batch_size == batch
    assert not choice.is_unsure
    assert "the guide's" in choice.reason


def test_sdxl_at_batch_two_fits_24_gb_only_with_checkpointing() -> None:
    choice = choose_batch(load("sdxl"), RTX_4090, PLENTY)
    assert choice.gradient_checkpointing
    assert "GB without it" in choice.why_checkpointing


def test_elsewhere_the_pair_that_trains_fastest_is_taken_and_compared() -> None:
    """24 GB hold one SDXL image without checkpointing, and eight with it train faster."""
    choice = choose_batch(load("sdxl", text=False), A5000, PLENTY)
    assert (choice.batch_size, choice.gradient_checkpointing) == (8, True)
    assert "batch 1 without it would take" in choice.why_checkpointing
    small = choose_batch(load(text=False), A5000, PLENTY)
    assert (small.batch_size, small.gradient_checkpointing) == (8, False)
    for batch, saving in ((4, False), (8, True)):
        assert seconds_per_image(load(), A5000, 8, False) <= seconds_per_image(
            load(), A5000, batch, saving
        )


def test_no_batch_is_larger_than_a_bucket_can_fill_and_max_fills_the_card() -> None:
    few = choose_batch(load(), A5000, Wish(most_images=3))
    assert few.batch_size == 3
    assert "largest bucket" in few.reason
    most = choose_batch(load(), A5000, Wish(most_images=1000, batch_size="max"))
    assert most.batch_size > 8
    assert not most.is_unsure


def test_a_batch_that_cannot_fit_is_refused_with_the_one_that_does() -> None:
    with pytest.raises(SettingsError, match="batch_size = 64 needs about") as caught:
        choose_batch(load(), RTX_4090, Wish(batch_size=64, most_images=100))
    fix = caught.value.problems[0].fix
    assert "set batch_size = " in fix
    named = int(fix.removeprefix("set batch_size = ").split(",")[0])
    again = choose_batch(load(), RTX_4090, Wish(batch_size=named, most_images=100))
    assert not again.is_unsure
    assert "batch_size = 32 and gradient_accumulation_steps = 2" in fix


def test_the_users_batch_runs_where_the_model_is_only_slightly_against_it() -> None:
    usable = largest_batch(load(), free_gb=RTX_4090.usable_gb, gradient_checkpointing=True)
    choice = choose_batch(load(), RTX_4090, Wish(batch_size=usable + 3, most_images=100))
    assert choice.batch_size == usable + 3
    assert choice.is_unsure
    assert "may not fit" in choice.reason


def test_the_laptops_card_is_not_the_desktops() -> None:
    laptop, desktop = card_named("NVIDIA GeForce RTX 4090 Laptop GPU"), card_named("RTX 4090")
    assert laptop is not None
    assert desktop is not None
    assert (laptop.nameplate_gb, laptop.guide_batch) == (16, None)
    assert desktop.guide_batch == (4, 2)
    assert card_named("Something Else 9000") is None


def test_memory_in_use_by_others_is_respected() -> None:
    busy = CardMemory(name="NVIDIA GeForce RTX 4090", free_mib=700)
    with pytest.raises(MachineError, match="even with gradient checkpointing"):
        choose_batch(load(), busy, PLENTY)
    with pytest.raises(MachineError, match="even with gradient checkpointing"):
        choose_batch(load(), busy, Wish(batch_size=4))


def test_a_card_that_hides_its_memory_gets_the_least() -> None:
    choice = choose_batch(load(), CardMemory(name="x", free_mib=None), Wish(most_images=9))
    assert (choice.batch_size, choice.gradient_checkpointing) == (1, True)


@pytest.mark.parametrize("free_gb", [8.0, 12.0, 16.0, 24.0, 48.0, 80.0])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_largest_batch_is_the_largest(free_gb: float, checkpointing: bool) -> None:
    size = largest_batch(load(), free_gb=free_gb, gradient_checkpointing=checkpointing)
    assert size >= 1
    needed = [
        needed_gb(load(), batch_size=each, gradient_checkpointing=checkpointing)
        for each in (size, size + 1)
    ]
    assert needed[0] <= free_gb < needed[1]


@pytest.mark.parametrize(
    ("wish", "batch", "accumulation"),
    [
        (Wish(effective_batch_size=16, most_images=100), 4, 4),
        (Wish(effective_batch_size=6, most_images=100), 3, 2),
        (Wish(effective_batch_size=2, most_images=100), 2, 1),
        (Wish(effective_batch_size=8, most_images=100, num_processes=2), 4, 1),
        (Wish(effective_batch_size=8, batch_size=2, most_images=100), 2, 4),
        (Wish(accumulation=3, most_images=100), 4, 3),
    ],
)
def test_accumulation_makes_up_the_effective_batch(
    wish: Wish, batch: int, accumulation: int
) -> None:
    choice = choose_batch(load(), RTX_4090, wish)
    assert (choice.batch_size, choice.accumulation) == (batch, accumulation)


def test_an_effective_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be divided by batch_size = 3"):
        choose_batch(load(), RTX_4090, Wish(effective_batch_size=8, batch_size=3))
    with pytest.raises(SettingsError, match="cannot be divided by num_processes = 2"):
        choose_batch(load(), RTX_4090, Wish(effective_batch_size=3, num_processes=2))


def test_filling_up_needs_no_card() -> None:
    choice = BatchChoice(
        batch_size=8,
        gradient_checkpointing=False,
        needed_gb=None,
        reason="usual",
        why_checkpointing="not needed",
    )
    filled = fill_up(choice, Wish(effective_batch_size=12))
    assert (filled.batch_size, filled.accumulation) == (6, 2)


@pytest.mark.parametrize(
    ("requested", "capability", "name", "precision"),
    [
        (None, (8, 9), "RTX 4090", "bf16"),
        (None, (7, 5), "Tesla T4", "fp16"),
        ("fp16", (8, 9), "RTX 4090", "fp16"),
        (None, None, "", "no"),
    ],
)
def test_precision_follows_the_card(
    requested: None, capability: tuple[int, int] | None, name: str, precision: str
) -> None:
    assert choose_precision(requested, capability=capability, gpu_name=name)[0] == precision


def test_bf16_on_a_card_without_it_is_refused_with_the_fix() -> None:
    with pytest.raises(SettingsError, match="Tesla T4 has no bf16"):
        choose_precision("bf16", capability=(7, 5), gpu_name="Tesla T4")


def test_a_cpu_computes_in_float32_unless_weights_in_bf16_are_requested() -> None:
    cpu = replace(ground(), device="cpu", capability=None)
    for requested, expected in (
        (Settings(mixed_precision="fp16"), "no"),
        (Settings(mixed_precision="bf16"), "no"),
        (Settings(mixed_precision="bf16", engine_options={"full_bf16": True}), "bf16"),
    ):
        assert shape_run(requested, cpu).shape.mixed_precision == expected


def test_a_broken_library_is_replaced_with_a_warning() -> None:
    settings = Settings(attention="xformers")
    broken = {"xformers": "undefined symbol", "bitsandbytes": "no kernel image"}
    good = shape_run(settings, ground())
    assert (good.shape.attention, good.optimizer, good.problems) == ("xformers", "AdamW8bit", ())
    bad = shape_run(settings, ground(broken=broken))
    assert (bad.shape.attention, bad.optimizer) == ("sdpa", "AdamW")
    assert [problem.level for problem in bad.problems] == ["warning", "warning"]
    assert "undefined symbol" in str(bad.problems[1])
    assert bad.load is not None
    assert bad.load.optimizer == "AdamW"  # sized with the state of the one that trains


def test_every_choice_is_reported_with_its_reason() -> None:
    choices = {each.name: each for each in shape_run(Settings(), ground()).choices}
    assert list(choices) == [
        "batch size",
        "checkpointing",
        "accumulation",
        "precision",
        "attention",
        "optimizer",
        "workers",
    ]
    assert all(each.value and each.reason for each in choices.values())
    assert choices["workers"].value == "0"


def test_workers_follow_shared_memory_where_latents_are_not_cached() -> None:
    settings = Settings(random_crop=True)
    assert choose_workers(settings, ground(), 4)[0] == 4
    assert choose_workers(settings, ground(shm_mib=64), 4)[0] == 1
    assert choose_workers(settings, replace(ground(), cpus=2), 4)[0] == 1
    assert choose_workers(settings, ground(shm_mib=8), 4)[0] == 0
    assert choose_workers(Settings(max_data_loader_n_workers=3), ground(), 4) == (3, "as set")


def test_the_largest_bucket_is_what_must_fit() -> None:
    wide = replace(ground(), buckets={(512, 512): 10, (1024, 512): 10})
    shaped, square = shape_run(Settings(), wide), shape_run(Settings(), ground())
    assert shaped.load is not None
    assert square.load is not None
    assert shaped.load.pixels == 2 * square.load.pixels


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_an_ia3_trains_a_few_numbers_whatever_the_rank(family: Family) -> None:
    """LyCORIS' docs/Guidelines.md: a file of 596 kB for SD 1.x, with the text encoder."""
    ia3 = replace(load(family), is_ia3=True)
    assert ia3.lora_parameters == replace(ia3, network_dim=1, conv_dim=8).lora_parameters
    assert ia3.lora_parameters < load(family, dim=1).lora_parameters / 3
    alone = replace(ia3, text_encoder_trained=False)
    assert 0 < alone.lora_parameters < ia3.lora_parameters
    if family == "sd1":
        assert ia3.lora_parameters * 4 == pytest.approx(596_000, rel=0.05)
    with_lora = needed_gb(load(family), batch_size=1, gradient_checkpointing=True)
    assert needed_gb(ia3, batch_size=1, gradient_checkpointing=True) < with_lora

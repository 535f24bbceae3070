"""Batch and checkpointing: the guide's numbers on its cards, the memory model elsewhere."""

import pytest

from tenner.cards import card_named
from tenner.errors import MachineError, SettingsError
from tenner.sizing import choose_batch, choose_precision
from tenner.vram import Family, Load, largest_batch, needed_gb


def load(family: Family = "sd1", *, dim: int = 32, text: bool = True) -> Load:
    side = 1024 if family == "sdxl" else 512
    return Load(
        family=family,
        pixels=side * side,
        network_dim=dim,
        text_encoder_trained=text,
        eight_bit=True,
    )


@pytest.mark.parametrize(
    ("gpu", "total_mib", "family", "batch"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, "sd1", 4),
        ("NVIDIA GeForce RTX 4090", 24564, "sdxl", 2),
        ("NVIDIA GeForce RTX 3090", 24576, "sd1", 2),
        ("NVIDIA GeForce RTX 3090", 24576, "sdxl", 1),
        ("NVIDIA A100-PCIE-40GB", 40960, "sd1", 8),
        ("NVIDIA A100-PCIE-40GB", 40960, "sdxl", 4),
    ],
)
def test_the_guides_batches_on_the_guides_cards(
    gpu: str, total_mib: int, family: Family, batch: int
) -> None:
    choice = choose_batch(
        load(family),
        gpu_name=gpu,
        free_mib=total_mib - 500,
        wanted="auto",
        checkpointing=None,
        most_images=1000,
    )
    assert choice.batch_size == batch


def test_sdxl_at_batch_two_fits_24_gb_only_with_checkpointing() -> None:
    choice = choose_batch(
        load("sdxl"),
        gpu_name="NVIDIA GeForce RTX 4090",
        free_mib=24000,
        wanted="auto",
        checkpointing=None,
        most_images=1000,
    )
    assert choice.gradient_checkpointing
    assert "with gradient checkpointing" in choice.reason


def test_the_laptops_card_is_not_the_desktops() -> None:
    laptop, desktop = card_named("NVIDIA GeForce RTX 4090 Laptop GPU"), card_named("RTX 4090")
    assert laptop is not None
    assert desktop is not None
    assert (laptop.nameplate_gb, laptop.guide_batch) == (16, None)
    assert desktop.guide_batch == (4, 2)
    assert card_named("Something Else 9000") is None


def test_memory_in_use_by_others_is_respected() -> None:
    with pytest.raises(MachineError, match="even with gradient checkpointing"):
        choose_batch(
            load(),
            gpu_name="NVIDIA GeForce RTX 4090",
            free_mib=700,
            wanted="auto",
            checkpointing=None,
            most_images=1000,
        )


def test_a_card_that_hides_its_memory_gets_the_least() -> None:
    choice = choose_batch(
        load(), gpu_name="x", free_mib=None, wanted="auto", checkpointing=None, most_images=9
    )
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
    ("asked", "capability", "name", "precision"),
    [
        (None, (8, 9), "RTX 4090", "bf16"),
        (None, (7, 5), "Tesla T4", "fp16"),
        ("fp16", (8, 9), "RTX 4090", "fp16"),
        (None, None, "", "no"),
    ],
)
def test_precision_follows_the_card(
    asked: None, capability: tuple[int, int] | None, name: str, precision: str
) -> None:
    assert choose_precision(asked, capability=capability, gpu_name=name)[0] == precision


def test_bf16_on_a_card_without_it_is_refused_with_the_fix() -> None:
    with pytest.raises(SettingsError, match="Tesla T4 has no bf16"):
        choose_precision("bf16", capability=(7, 5), gpu_name="Tesla T4")

"""What the plan counts of the memory of CUDA graphs, against the tensors that they hold."""

from dataclasses import replace

import pytest
import torch

from tenner.core.family import Family
from tenner.core.graph_obstacle import MOST_GRAPHS
from tenner.engines.native.feed import Samples
from tenner.engines.native.passes import PassInputs
from tenner.planning.batch_choice import CardMemory, Wish
from tenner.planning.graph_memory import WORKSPACE_GB, inputs_gb
from tenner.planning.shaping import Ground, load_of
from tenner.planning.sizing import choose_batch
from tenner.planning.vram import ALLOCATOR_SHARE, Load, memory_parts, needed_gb, update_gb
from tenner.settings import Settings

SDXL = Load(family="sdxl", pixels=1024**2, network_dim=32, engine="native", cuda_graphs=True)
CASE = {"batch_size": 2, "gradient_checkpointing": False}


@pytest.mark.parametrize(
    ("family", "widths", "dtype", "trains_text"),
    [
        ("sd1", (768,), torch.bfloat16, False),
        ("sd2", (1024,), torch.float32, False),
        ("sdxl", (768, 1280), torch.bfloat16, False),
        ("sdxl", (768, 1280), torch.bfloat16, True),
    ],
)
def test_a_graphs_inputs_are_counted_as_they_are_copied(
    family: Family, widths: tuple[int, ...], dtype: torch.dtype, trains_text: bool
) -> None:
    number, height, width, tokens = 3, 512, 768, 152
    samples = Samples(
        noisy=torch.empty(number, 4, height // 8, width // 8, dtype=dtype),
        target=torch.empty(number, 4, height // 8, width // 8),
        timesteps=torch.empty(number, dtype=torch.long),
        share=torch.empty(number),
        sizes=torch.empty(number, 6),
        masks=None,
        captions=[""] * number,
    )
    encoded = [torch.empty(number, tokens, sum(widths), dtype=dtype)]
    encoded += [torch.empty(number, widths[-1], dtype=dtype)] * (family == "sdxl")
    ids = [torch.empty(number, tokens, dtype=torch.long) for _ in widths]
    inputs = PassInputs(samples=samples, text=tuple(ids if trains_text else encoded)).cloned()
    counted = inputs_gb(
        family,
        pixels=height * width,
        tokens=tokens,
        trains_text=trains_text,
        full_precision=dtype == torch.float32,
    )
    assert counted * number * 1e9 == pytest.approx(sum(t.nbytes for t in inputs.tensors()))


def beside(load: Load, **case: object) -> float:
    """GB of activations more than without graphs."""
    own, other = (
        memory_parts(each, **{**CASE, **case})["activations"]
        for each in (load, replace(load, cuda_graphs=False))
    )
    return own - other


def test_the_pool_is_counted_once_and_what_runs_between_replays_beside_it() -> None:
    """Of one bucket a full and a last batch, each captured with inputs of its own; the update no
    longer takes the place of the passes."""
    inputs = 2 * inputs_gb(
        "sdxl", pixels=1024**2, tokens=77, trains_text=False, full_precision=False
    )
    fused = replace(SDXL, optimizer="AdamW")
    assert beside(fused) == pytest.approx(2 * inputs + 2 * inputs + WORKSPACE_GB)
    assert update_gb(SDXL) > 0.5 > 2 * inputs
    assert beside(SDXL) == pytest.approx(2 * inputs + update_gb(SDXL) + WORKSPACE_GB)
    ten = replace(fused, num_buckets=10)
    assert beside(ten) == pytest.approx(20 * inputs + 20 * inputs + WORKSPACE_GB)
    assert beside(ten, batch_size=1) == pytest.approx(10 * inputs + WORKSPACE_GB)
    in_32_bits = replace(ten, full_precision=True)
    assert beside(in_32_bits) > 1.4 * beside(ten)


def test_passes_of_shapes_that_are_not_captured_take_their_own_memory() -> None:
    fused = replace(SDXL, optimizer="AdamW", num_buckets=MOST_GRAPHS // 2)
    passes = memory_parts(replace(fused, cuda_graphs=False), **CASE)["activations"]
    assert beside(fused) < 0.1 * passes
    assert passes < beside(replace(fused, num_buckets=MOST_GRAPHS // 2 + 1)) < 1.1 * passes


def test_a_batch_that_fits_without_graphs_is_made_smaller_with_them() -> None:
    large = replace(SDXL, network_dim=256)
    without = replace(large, cuda_graphs=False)
    more = needed_gb(large, **CASE) - needed_gb(without, **CASE)
    assert more > update_gb(large) * (1 + ALLOCATOR_SHARE)
    usable = needed_gb(without, **CASE) + 0.1
    card = CardMemory(name="some card", free_mib=round(usable / 0.92 * 1e9 / 2**20))
    wish = Wish(batch_size="max", gradient_checkpointing=False, most_images=9)
    assert choose_batch(without, card, wish).batch_size == 2
    choice = choose_batch(large, card, replace(wish, gradient_checkpointing=None))
    assert choice.needed_gb is not None
    assert choice.needed_gb <= card.usable_gb
    assert (choice.batch_size, choice.gradient_checkpointing) != (2, False)


@pytest.mark.parametrize(
    ("settings", "engine", "counts"),
    [
        (Settings(), "native", False),
        (Settings(cuda_graphs=True), "native", True),
        (Settings(cuda_graphs=True), "sd-scripts", False),
        (Settings(cuda_graphs=True, torch_compile=True), "native", False),
        (Settings(cuda_graphs=True, network_args=["module_dropout=0.1"]), "native", False),
        (Settings(cuda_graphs=True, network_dropout=0.1), "native", True),
    ],
)
def test_graphs_count_where_they_will_be_captured(
    settings: Settings, engine: str, counts: bool
) -> None:
    ground = Ground(
        device="cuda",
        card=CardMemory(name="NVIDIA GeForce RTX 4090", free_mib=24000),
        capability=(8, 9),
        engine=engine,
        family="sdxl",
        is_tiny=False,
        resolution=(1024, 1024),
        buckets={(1024, 1024): 50, (832, 1216): 10},
    )
    load = load_of(settings, ground, optimizer="AdamW", precision="bf16")
    assert (load.cuda_graphs, load.num_buckets, load.tokens) == (counts, 2, 77)
    if settings.network_dropout:  # which checkpointing keeps from being captured
        assert beside(load) > 0
        assert beside(load, gradient_checkpointing=True) == 0

"""A transformer whose card runs out of memory: the cheapest lever that frees a good part of it."""

import itertools
from pathlib import Path

from tenner.families import FAMILIES
from tenner.planning.lighter import (
    LESS,
    Levers,
    Trained,
    changed_options,
    levers_of,
    lighter_levers,
)
from tenner.planning.vram import Load, needed_gb
from tenner.settings.model import Settings
from tenner.supervision.oom_fallback import next_rung
from tests.families.test_families import SHAPES, safetensors
from tests.run.program import StandIn
from tests.train_options import train_options

TRAINED = Trained(family="flux", pixels=1024**2, card="NVIDIA GeForce RTX 4090")
FLUX = FAMILIES["flux"].transformer


def gb(levers: Levers) -> float:
    load = Load(
        family="flux",
        pixels=1024**2,
        network_dim=16,
        half_base=levers.fp8,
        blocks_to_swap=levers.blocks_to_swap,
        text_gb=0.0,
    )
    return needed_gb(
        load,
        batch_size=levers.batch_size,
        gradient_checkpointing=levers.gradient_checkpointing,
    )


def test_each_step_down_frees_memory_until_nothing_is_left_and_8_bits_come_last() -> None:
    assert FLUX is not None
    options = train_options(
        train_batch_size=4, network_dim=16, network_train_unet_only=True, mixed_precision="bf16"
    )
    found = [levers_of(options, FLUX)]
    while lighter := lighter_levers(options, TRAINED):
        options = options.with_changed(changed_options(found[-1], lighter, options, FLUX))
        assert levers_of(options, FLUX) == lighter
        assert options.train_batch_size * options.gradient_accumulation_steps == 4
        found.append(lighter)
    needs = [gb(each) for each in found]
    pairs = list(itertools.pairwise(needs))
    assert all(later < before for before, later in pairs)
    assert all(later <= before * (1 - LESS) for before, later in pairs[:-1])
    assert found[-1] == Levers(
        batch_size=1,
        gradient_checkpointing=True,
        blocks_to_swap=FLUX.blocks.most_swapped,
        fp8=True,
    )
    first_fp8 = next(index for index, each in enumerate(found) if each.fp8)
    in_16_bits = found[first_fp8 - 1]
    assert in_16_bits.batch_size == 1
    assert in_16_bits.gradient_checkpointing
    assert in_16_bits.blocks_to_swap == FLUX.blocks.most_swapped


def test_what_is_set_by_name_is_not_changed() -> None:
    options = train_options(
        train_batch_size=4,
        network_train_unet_only=True,
        mixed_precision="bf16",
        blocks_to_swap=2,
        fp8_base=False,
    )
    fixed = Settings(batch_size=4, gradient_checkpointing=False)
    assert next_rung(options, fixed, TRAINED) is None
    rung = next_rung(options, Settings(batch_size=4), TRAINED)
    assert rung is not None
    assert dict(rung.changed) == {"gradient_checkpointing": True}
    assert rung.states_fit


def test_blocks_are_swapped_until_it_fits_and_the_run_resumes(tmp_path: Path) -> None:
    machine = StandIn(tmp_path, STAND_IN="oom", STAND_IN_STEPS="4", STAND_IN_SWAPS="12")
    (tmp_path / "models").mkdir()
    shapes = SHAPES["flux"] | {"big": [100_000_000]}
    machine.base = safetensors(tmp_path / "models" / "flux1-dev.safetensors", shapes)
    files = {each.option: each for each in FAMILIES["flux"].files}
    words = ["--engine", "sd-scripts", "--mixed_precision", "bf16"]
    for option, each in files.items():
        shape = list(each.shape) or [1]
        name = safetensors(tmp_path / "models" / Path(each.file).name, {each.mark: shape})
        words += [f"--{option}", str(name)]
    words += ["--max_train_steps", "24", "--save_every_n_steps", "4", "--batch_size", "1"]
    assert machine.finish(*machine.train("cat", *words)) == 0, machine.output
    starts = machine.commands("cat")
    swapped = [int(each.get("blocks_to_swap", "0")) for each in starts]
    assert swapped == sorted(swapped)
    assert swapped[-2] < 12 <= swapped[-1]
    assert len({each.get("fp8_base") for each in starts}) == 1, "as it was planned"
    states = [each.get("resume", "")[-13:] for each in starts]
    assert states == ["", *(f"step-{4 * each:08d}" for each in range(1, len(starts)))]
    assert "learns the same: " in machine.output
    assert f"blocks_to_swap = {swapped[-1]}" in machine.output
    assert machine.ledger("cat")["savings"]["blocks_to_swap"] == swapped[-1]
    assert [each["step"] for each in machine.events("cat", "step")][-1] == 24

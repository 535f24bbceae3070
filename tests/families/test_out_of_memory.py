"""A transformer whose card runs out of memory: the cheapest lever that frees a good part of it."""

import itertools
from dataclasses import replace
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
from tenner.supervision.captions_fallback import (
    TextEncoders,
    captions_fix,
    next_rung_for_captions,
)
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


def test_a_base_that_lycoris_adds_to_is_never_taken_in_8_bits() -> None:
    assert FLUX is not None
    options = train_options(
        network_module="lycoris.kohya",
        network_args=("algo=lokr",),
        network_train_unet_only=True,
        mixed_precision="bf16",
    )
    assert (
        next_rung_for_captions(
            options.with_changed({"text_encoder_batch_size": 1}),
            Settings(),
            TextEncoders(family="flux", t5_in_8_bits=True),
        )
        is None
    )
    found = [levers_of(options, FLUX)]
    while lighter := lighter_levers(options, TRAINED):
        options = options.with_changed(changed_options(found[-1], lighter, options, FLUX))
        found.append(lighter)
    assert found[-1].blocks_to_swap == FLUX.blocks.most_swapped
    assert not any(each.fp8 for each in found)


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


def flux_words(machine: StandIn, t5_dtype: str = "BF16") -> list[str]:
    """The words for FLUX.1 dev, whose files are written for it."""
    models = machine.folder / "models"
    models.mkdir()
    machine.base = safetensors(
        models / "flux1-dev.safetensors", SHAPES["flux"] | {"big": [100_000_000]}
    )
    args = ["--engine", "sd-scripts", "--mixed_precision", "bf16"]
    for each in FAMILIES["flux"].files:
        shapes = {each.mark: list(each.shape) or [1]}
        dtype = t5_dtype if each.option == "t5xxl" else "BF16"
        file = safetensors(models / Path(each.file).name, shapes, dtype)
        args += [f"--{each.option}", str(file)]
    return args


def test_blocks_are_swapped_until_it_fits_and_the_run_resumes(tmp_path: Path) -> None:
    machine = StandIn(tmp_path, STAND_IN="oom", STAND_IN_STEPS="4", STAND_IN_SWAPS="12")
    args = flux_words(machine)
    args += ["--max_train_steps", "24", "--save_every_n_steps", "4", "--batch_size", "1"]
    assert machine.finish(*machine.train("cat", *args)) == 0, machine.output
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


NOT_CAPTIONS = ("train_batch_size", "gradient_checkpointing", "blocks_to_swap", "max_train_steps")
"""Options that have no part in the encoding of captions."""


def test_captions_that_do_not_fit_take_what_helps_there_and_nothing_else(tmp_path: Path) -> None:
    machine = StandIn(
        tmp_path,
        STAND_IN="oom_captions",
        STAND_IN_CAPTIONS="text_encoder_batch_size=1,fp8_base=true",
    )
    name, memory = "NVIDIA A100-SXM4-80GB", {"memory.total": 81920, "memory.free": 81000}
    machine.describe({**machine.card, "name": name, "compute_cap": "8.0", **memory})
    args = [*flux_words(machine, "F8_E4M3"), "--max_train_steps", "4", "--batch_size", "2"]
    assert machine.finish(*machine.train("cat", *args)) == 0, machine.output
    starts = machine.commands("cat")
    at_a_time = [each.get("text_encoder_batch_size") for each in starts]
    assert at_a_time == [None, "1", "1"]
    assert [each.get("fp8_base") for each in starts] == [None, None, "true"]
    for option in NOT_CAPTIONS:
        assert len({each.get(option) for each in starts}) == 1, option
    assert "out of memory while captions were encoded" in machine.output
    assert "captions are encoded one at a time" in machine.output
    assert machine.ledger("cat")["savings"]["text_encoder_batch_size"] == 1


def test_captions_that_never_fit_end_at_once_with_what_to_do(tmp_path: Path) -> None:
    """A T5 in 16 bits stays so whatever fp8_base is."""
    machine = StandIn(tmp_path, STAND_IN="oom_captions", STAND_IN_CAPTIONS="never=true")
    args = [*flux_words(machine), "--max_train_steps", "4", "--batch_size", "1"]
    assert machine.finish(*machine.train("cat", *args)) == 5, machine.output
    assert len(machine.commands("cat")) == 1
    assert "t5xxl_fp8_e4m3fn.safetensors" in machine.output
    assert "the text encoders alone take 9.8 GB" in machine.output


def test_levers_of_captions_that_are_set_by_name_stay() -> None:
    t5 = TextEncoders(family="flux", t5_in_8_bits=True)
    own = train_options(
        train_batch_size=4, mixed_precision="bf16", text_encoder_batch_size=2, fp8_base=False
    )
    assert next_rung_for_captions(own, Settings(), t5) is None
    assert "a card with more memory" in captions_fix(own, t5)
    in_16 = replace(t5, t5_in_8_bits=False)
    whole = train_options(train_batch_size=1, mixed_precision="bf16")
    assert next_rung_for_captions(whole, Settings(), in_16) is None
    rung = next_rung_for_captions(whole, Settings(), t5)
    assert rung is not None
    assert dict(rung.changed) == {"fp8_base": True}
    full = train_options(train_batch_size=1, mixed_precision="no")
    assert next_rung_for_captions(full, Settings(), t5) is None


def test_each_family_has_its_own_levers_of_captions() -> None:
    """HunyuanImage: its encoder in 8 bits, then on the CPU. SDXL: captions go in batches of the
    training's size, and checkpointing is not tried."""
    options, tried = train_options(train_batch_size=2, mixed_precision="bf16"), list[str]()
    while rung := next_rung_for_captions(options, Settings(), TextEncoders(family="hunyuan-image")):
        tried += rung.changed
        options = options.with_changed(rung.changed)
    assert tried == ["text_encoder_batch_size", "fp8_vl", "text_encoder_cpu"]
    options, sdxl = train_options(train_batch_size=2), TextEncoders(family="sdxl")
    rung = next_rung_for_captions(options, Settings(), sdxl)
    assert rung is not None
    options = options.with_changed(rung.changed)
    assert options.train_batch_size == 1
    assert next_rung_for_captions(options, Settings(), sdxl) is None

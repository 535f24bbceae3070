"""The built-in trainer's memory and time models, against its traced step and measured rows."""

from dataclasses import replace

import pytest

from bench.engine_ops import trace, trace_clip, trace_text
from bench.gpu_day.report import _toml
from bench.traced_memory import modelled_gb, stored_rows, trace_update, traced_gb
from tenner.core.family import Family
from tenner.hardware.cards.measured import MeasuredMemory, MeasuredSpeed
from tenner.pipeline.probing import reason_to_measure
from tenner.planning import speed, vram
from tenner.planning.batch_choice import CardMemory
from tenner.planning.shaping import Ground, load_of
from tenner.planning.sizing import seconds_per_image
from tenner.planning.speed import modelled_seconds, step_time
from tenner.planning.vram import Load, largest_batch, memory_parts, needed_gb
from tenner.settings import Settings

SDXL = Load(family="sdxl", pixels=1024**2, network_dim=32, engine="native")


def test_the_model_is_within_five_percent_of_every_traced_step() -> None:
    rows = stored_rows()
    seen = {name: {row[name] for row in rows} for name in ("family", "checkpointing", "text")}
    assert seen == {
        "family": {"sd1", "sd2", "sdxl"},
        "checkpointing": {True, False},
        "text": {True, False},
    }
    assert {4, 256} <= {row["rank"] for row in rows}
    assert {1, 8} <= {row["batch"] for row in rows}
    assert {row.get("conv_dim", 0) for row in rows} == {0, 16}
    assert {row.get("plain", False) for row in rows} == {False, True}
    for row in rows:
        assert modelled_gb(row) == pytest.approx(traced_gb(row), rel=0.05), row


def test_the_update_counts_where_it_copies_more_than_the_passes_keep() -> None:
    """SDXL's LoRA of rank 256 has 681 million numbers: to undo a step of AdamW8bit takes 6 bytes of
    each, which is six times what the passes of an image take with checkpointing."""
    large = replace(SDXL, network_dim=256)
    copied = trace_update(large.lora_parameters) / 1e9
    assert copied == pytest.approx(256 * 2_659_840 * 6 / 1e9, rel=0.01)
    case = {"batch_size": 1, "gradient_checkpointing": True}
    assert memory_parts(large, **case)["activations"] == pytest.approx(copied, rel=0.01)
    fused = memory_parts(replace(large, optimizer="AdamW"), **case)
    assert fused["activations"] < 1
    most = largest_batch(large, free_gb=21.0, gradient_checkpointing=True)
    assert most >= 5, "the images of a step take the place of the copies"
    assert needed_gb(large, batch_size=most, gradient_checkpointing=True) <= 21.0
    assert needed_gb(large, batch_size=most + 1, gradient_checkpointing=True) > 21.0


@pytest.mark.parametrize(
    "settings",
    [
        Settings(network_dropout=0.1),
        Settings(network_args=["rank_dropout=0.1"]),
        Settings(torch_compile=True),
    ],
)
def test_dropouts_and_compilation_take_what_a_plain_lora_takes(settings: Settings) -> None:
    ground = Ground(
        device="cuda",
        card=CardMemory(name="NVIDIA GeForce RTX 4090", free_mib=24000),
        capability=(8, 9),
        engine="native",
        family="sdxl",
        is_tiny=False,
        resolution=(1024, 1024),
        buckets={(1024, 1024): 50},
    )
    plain, usual = (
        load_of(each, ground, optimizer="AdamW8bit", precision="bf16")
        for each in (settings, Settings())
    )
    case = {"batch_size": 2, "gradient_checkpointing": True}
    more = memory_parts(plain, **case)["activations"] - memory_parts(usual, **case)["activations"]
    assert more == pytest.approx(2 * vram.TRACED_PLAIN["sdxl"][True])


def test_a_moving_average_is_one_more_number_in_32_bits() -> None:
    more = replace(SDXL, averaged=True).bytes_per_parameter - SDXL.bytes_per_parameter
    assert more == 4


def test_a_row_that_a_card_measured_takes_the_place_of_what_was_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def needed() -> float:
        return needed_gb(SDXL, batch_size=4, gradient_checkpointing=False)

    before = needed()
    traced = vram.TRACED_STEPS["sdxl"][False]
    row = MeasuredMemory(
        card="RTX 4090",
        family="sdxl",
        side=1024,
        network_dim=32,
        batch_size=2,
        gradient_checkpointing=False,
        text_encoder_trained=False,
        gb=0.0,
        scope="allocator",
        source="a card",
        engine="native",
    )
    images, others = vram._traced_row(row)
    assert images == pytest.approx(2 * (traced.image_gb + 32 * traced.rank_gb))
    measured = replace(row, gb=others + images * 1.2)
    monkeypatch.setattr(vram, "measured_memory", lambda: (measured,))
    vram._measured_share.cache_clear()
    try:
        more = 4 * (images / 2) * 0.2 * (1 + vram.ALLOCATOR_SHARE)
        assert needed() == pytest.approx(before + more)
        assert vram.is_measured("sdxl", "native")
    finally:
        vram._measured_share.cache_clear()


MEASURED = MeasuredSpeed(
    card="RTX 4090",
    family="sdxl",
    side=1024,
    batch_size=2,
    gradient_accumulation_steps=1,
    gradient_checkpointing=False,
    text_encoder_trained=False,
    seconds_per_step=9.0,
    source="a card",
    engine="native",
)


def test_a_time_of_one_trainer_says_nothing_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "measured_speed", lambda: (MEASURED,))
    speed._by_measurement.cache_clear()
    try:
        case = {"gpu_name": "RTX 4090", "batch_size": 2, "gradient_checkpointing": False}
        own = step_time(SDXL, **case)
        other = step_time(replace(SDXL, engine="sd-scripts"), **case)
    finally:
        speed._by_measurement.cache_clear()
    assert own is not None
    assert other is not None
    assert (own.seconds, own.is_measured) == (pytest.approx(9.0), True)
    assert (other.seconds < 2, other.is_measured) == (True, False)
    assert (own.error, other.error) == (0.25, 0.25)
    untimed = step_time(SDXL, **{**case, "gpu_name": "H100"})
    assert untimed is not None
    assert (untimed.error, untimed.is_measured) == (0.5, False)


def test_cuda_graphs_gain_what_the_card_has_measured_of_them_and_else_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = replace(MEASURED, seconds_per_step=7.0, cuda_graphs=True)
    case = {"gpu_name": "RTX 4090", "batch_size": 2, "gradient_checkpointing": False}
    found: list[float] = []
    try:
        for rows in ((MEASURED,), (MEASURED, graphs), (graphs,)):
            monkeypatch.setattr(speed, "measured_speed", lambda rows=rows: rows)
            for on in (False, True):
                speed._by_measurement.cache_clear()
                time = step_time(replace(SDXL, cuda_graphs=on), **case)
                assert time is not None
                found.append(time.seconds)
    finally:
        speed._by_measurement.cache_clear()
    assert found[:4] == pytest.approx([9.0, 9.0, 9.0, 7.0])
    assert found[4] < 2, "a row with graphs says nothing of a run without"
    assert found[5] == pytest.approx(7.0)


@pytest.mark.parametrize(("family", "side"), [("sd1", 512), ("sdxl", 1024)])
def test_fewer_kernels_make_small_steps_faster_and_large_ones_hardly(
    family: str, side: int
) -> None:
    def share(peak: float, batch: int) -> float:
        own, other = (
            modelled_seconds(
                Load(family=family, pixels=side**2, network_dim=32, engine=engine),
                peak_tflops=peak,
                batch_size=batch,
                gradient_checkpointing=False,
            )
            for engine in ("native", "sd-scripts")
        )
        return own / other

    kernels = speed.KERNELS[family]
    assert share(1e6, 1) == pytest.approx(kernels["native"] / kernels["sd-scripts"], rel=0.01)
    assert share(25.6, 8) > 0.95


@pytest.mark.long
def test_the_kernels_of_a_step_are_those_that_are_counted() -> None:
    _, whole = trace("sd1", 64)
    assert speed.KERNELS["sd1"]["native"] == whole.num_kernels


@pytest.mark.long
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_kernels_of_text_encoders_are_those_that_are_counted(family: Family) -> None:
    counted = (trace_text(family, trained=False), trace_text(family, trained=True))
    assert speed.TEXT_KERNELS[family] == counted
    if speed.CLIP_KERNELS[family]:
        assert speed.CLIP_KERNELS[family] == trace_clip(family)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_captions_that_change_are_encoded_in_every_step(family: Family) -> None:
    """On a card that computes in no time a step takes its launches, of which the built-in trainer
    makes as many more as encoding each caption of the batch takes."""
    load = Load(family=family, pixels=512**2, network_dim=8, engine="native")
    sd_scripts = replace(load, engine="sd-scripts")

    def seconds(load: Load) -> float:
        card = CardMemory(name="no known card", free_mib=None)
        return 4 * seconds_per_image(replace(load, pixels=1), card, 4, False)

    kernel = speed.LAUNCH_SECONDS[family] / speed.KERNELS[family]["sd-scripts"]
    more = seconds(replace(load, text_encoder_held=True)) - seconds(load)
    assert more == pytest.approx(4 * speed.TEXT_KERNELS[family][0] * kernel, rel=1e-3)
    trained = seconds(replace(load, text_encoder_trained=True)) - seconds(load)
    assert trained == pytest.approx(speed.TEXT_KERNELS[family][1] * kernel, rel=1e-3)
    others = seconds(replace(sd_scripts, text_encoder_held=True)) - seconds(sd_scripts)
    assert others == pytest.approx(576 * kernel if family == "sdxl" else 0.0, rel=1e-3)


def test_memory_that_no_card_has_measured_is_measured_where_much_is_planned() -> None:
    case = {"family": "sdxl", "capability": (8, 9), "engine": "native"}
    assert "built-in trainer" in reason_to_measure("auto", needed_gb=15.0, free_gb=24.0, **case)
    assert not reason_to_measure("auto", needed_gb=8.0, free_gb=24.0, **case)
    older = {**case, "family": "sd2"}
    assert "built-in trainer" in reason_to_measure("auto", needed_gb=15.0, free_gb=24.0, **older)
    other = {**case, "engine": "sd-scripts"}
    assert not reason_to_measure("auto", needed_gb=15.0, free_gb=24.0, **other)


def test_the_kit_names_the_trainer_of_its_rows() -> None:
    row = {
        "name": "x",
        "card": "RTX 4090",
        "family": "sdxl",
        "side": 1024,
        "torch": "2.8",
        "train_batch_size": 2,
        "network_dim": 32,
        "allocated_gb": 17.0,
        "engine": "native",
        "seconds_per_step": 0.5,
    }
    assert all('engine = "native"' in table for table in _toml(row))
    assert not _toml({**row, "gradient_checkpointing": True, "checkpointed_blocks": 9})
    others = _toml({**row, "engine": "sd-scripts"})
    assert all('engine = "sd-scripts"' in table for table in others)

"""The sampling process, run as a process on a tiny random model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from PIL import Image, ImageChops

from tenner.sample.grid import draw_grid, read_tiles
from tenner.sample.job import Cell, Sample, SampleJob, Samples

Run = Callable[[SampleJob], tuple[int, list[dict[str, Any]]]]


Python = Callable[..., CompletedProcess[str]]


def pictures(job: SampleJob) -> dict[tuple[float, int], Path]:
    folder = Path(job.out_dir)
    listing = Samples.read(folder / "samples.json")
    return {(each.cell.strength, each.cell.seed): folder / each.file for each in listing.samples}


def same(one: Path, other: Path) -> bool:
    with Image.open(one) as first, Image.open(other) as second:
        difference = ImageChops.difference(first.convert("RGB"), second.convert("RGB"))
    return all(high <= 1 for _, high in difference.getextrema())


def test_draws_every_cell_once_and_reports_it(job: SampleJob, draw: Run) -> None:
    code, events = draw(job)
    assert (code, events[-1]["event"]) == (0, "done"), events
    assert not [each for each in events if each["event"] == "warning"]
    assert events[-2]["done"] == events[-2]["total"] == 6
    assert len(list(Path(job.out_dir).glob("*.png"))) == 6
    listing = Samples.read(Path(events[-1]["path"]))
    assert [each.cell for each in listing.samples] == list(job.cells)
    assert draw_grid(read_tiles(Path(events[-1]["path"]))).width > 256


def test_strength_turns_the_lora_and_zero_is_the_base(
    job: SampleJob, draw: Run, tmp_path: Path
) -> None:
    draw(job)
    bare = replace(job, lora=None, out_dir=str(tmp_path / "bare"), batch_size=1)
    assert draw(bare)[0] == 0
    with_lora, base = pictures(job), pictures(bare)
    for seed in (1, 2):
        assert same(with_lora[0.0, seed], base[1.0, seed])
        assert not same(with_lora[0.0, seed], with_lora[0.5, seed])
        assert not same(with_lora[0.5, seed], with_lora[1.0, seed])


@pytest.mark.long
def test_strength_means_what_it_means_to_kohya(
    job: SampleJob, draw: Run, python: Python, models: Path, tmp_path: Path
) -> None:
    """Text encoder, alpha and 1x1 convolutions included: as if added into the weights."""
    draw(job)
    code = (
        "import sys, tiny_models as t; from pathlib import Path; b, l, f = map(Path, sys.argv[1:]);"
        "t.merge_lora(b, l, 0.5, f)"
    )
    merged = tmp_path / "merged"
    made = python("-c", code, job.base, str(models / "lora.safetensors"), str(merged))
    assert made.returncode == 0, made.stderr
    other = replace(job, base=str(merged), lora=None, out_dir=str(tmp_path / "other"))
    assert draw(other)[0] == 0
    for seed in (1, 2):
        assert same(pictures(job)[0.5, seed], pictures(other)[0.5, seed])


@pytest.mark.long
def test_pictures_say_how_they_were_made(job: SampleJob, draw: Run) -> None:
    cells = (
        Cell(prompt="نجمة sks", negative_prompt="blur", strength=0.8, seed=7),
        Cell(prompt="sks", strength=0.0, seed=7),
    )
    draw(replace(job, cells=cells))
    found = pictures(job)
    with Image.open(found[0.8, 7]) as image:
        lines = image.info["parameters"].splitlines()
    assert lines[0] == "نجمة sks <lora:lora:0.8>"
    assert lines[1] == "Negative prompt: blur"
    assert lines[2].startswith(
        "Steps: 3, Sampler: DDIM, CFG scale: 3, Seed: 7, Size: 32x32, Model: sd1, "
        'Lora hashes: "lora: '
    )
    with Image.open(found[0.0, 7]) as image:
        assert "lora" not in image.info["parameters"]


@pytest.mark.long
def test_a_job_that_was_cut_short_resumes(job: SampleJob, draw: Run) -> None:
    draw(job)
    found = pictures(job)
    found[1.0, 2].unlink()
    found[0.5, 1].write_bytes(b"half a picture")
    before = {path: path.stat().st_mtime_ns for path in found.values() if path.exists()}
    code, _ = draw(job)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert code == 0
    assert {path for path in before if before[path] != after[path]} == {found[0.5, 1]}
    assert found[1.0, 2].exists()


def test_sdxl_is_drawn(job: SampleJob, draw: Run, models: Path) -> None:
    xl = replace(job, base=str(models / "sdxl"), family="sdxl", lora=None, cells=job.cells[:1])
    assert draw(xl)[1][-1]["event"] == "done"


@pytest.mark.long
def test_what_cannot_be_loaded_is_named(job: SampleJob, draw: Run, tmp_path: Path) -> None:
    code, events = draw(replace(job, base=str(tmp_path / "none")))
    assert (code, events[-1]["kind"]) == (1, "base_model")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    code, events = draw(replace(job, lora=str(broken)))
    assert code == 1
    assert "broken.safetensors" in events[-1]["text"]


def test_jobs_and_listings_survive_json() -> None:
    job = SampleJob(base="b", family="sdxl", cells=(Cell(prompt="é", seed=3),), out_dir="o")
    assert SampleJob.from_json(job.to_json()) == job
    listing = Samples(samples=(Sample(cell=job.cells[0], file="a.png", width=1, height=2),))
    assert Samples.from_json(listing.to_json()) == listing


def test_the_moving_average_is_drawn_beside_the_raw_weights(
    job: SampleJob, draw: Run, python: Python, models: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other-ema.safetensors"
    code = (
        "import sys; from safetensors.torch import load_file, save_file;"
        "t = load_file(sys.argv[1]);"
        "save_file({k: v * 0.5 if 'lora_up' in k else v for k, v in t.items()}, sys.argv[2])"
    )
    assert python("-c", code, str(models / "lora.safetensors"), str(other)).returncode == 0
    cells = (
        Cell(prompt="sks star", strength=1.0, column="1.0"),
        Cell(prompt="sks star", strength=1.0, column="1.0 EMA", ema=True),
        Cell(prompt="sks star", strength=0.5, column="0.5"),
    )
    found, events = draw(replace(job, cells=cells, lora_ema=str(other)))
    assert (found, events[-1]["event"]) == (0, "done"), events
    folder = Path(job.out_dir)
    files = [folder / each.file for each in Samples.read(folder / "samples.json").samples]
    assert not same(files[0], files[1])
    assert same(files[1], files[2])  # half the update, at twice the strength
    with Image.open(files[1]) as image:
        assert "<lora:other-ema:1>" in image.info["parameters"]

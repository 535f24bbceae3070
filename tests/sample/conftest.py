"""A tiny base, a LoRA for it, and the sampling process run as it is in a real run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenner.sample.job import Cell, SampleJob

ENTRYPOINT = Path(__file__).parents[2] / "entrypoint"
Run = Callable[[SampleJob], tuple[int, list[dict[str, Any]]]]


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(ENTRYPOINT), str(Path(__file__).parent)))
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Python in a process of its own, with tenner and the tiny models on its path."""
    return run_python


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sd1`, `sdxl` and `lora.safetensors`, made in a process of their own."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("models")
    code = (
        "import sys, tiny_models as t; from pathlib import Path; f = Path(sys.argv[1]);"
        "t.make_sdxl(f / 'sdxl'); t.make_lora(t.make_sd1(f / 'sd1'), f / 'lora.safetensors')"
    )
    made = run_python("-c", code, str(folder))
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def draw(tmp_path: Path) -> Run:
    def run(job: SampleJob) -> tuple[int, list[dict[str, Any]]]:
        path = tmp_path / "job.json"
        path.write_text(job.to_json(), encoding="utf-8")
        ended = run_python("-m", "tenner.sample.draw", str(path))
        return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]

    return run


@pytest.fixture
def job(models: Path, tmp_path: Path) -> SampleJob:
    """Strengths 0, 0.5 and 1 of two seeds, the last cell twice."""
    cells = [
        Cell(prompt="sks star", strength=strength, seed=seed, row=str(seed), column=str(strength))
        for seed in (1, 2)
        for strength in (0.0, 0.5, 1.0)
    ]
    return SampleJob(
        base=str(models / "sd1"),
        family="sd1",
        lora=str(models / "lora.safetensors"),
        cells=(*cells, Cell(prompt="sks star", strength=1.0, seed=2, group="again")),
        out_dir=str(tmp_path / "samples"),
        width=32,
        height=32,
        steps=3,
        guidance_scale=3.0,
        num_threads=1,
        batch_size=2,
    )

"""The kit that measures a card runs from end to end on a CPU, and goes on after a cut."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench.gpu_day import parts
from bench.gpu_day.packages import packages
from bench.gpu_day.parts import PARTS, Day, Shape, planned
from tenner.engines.choice import MODULES
from tenner.planning.batch_choice import CardMemory, Wish
from tenner.planning.sizing import choose_batch
from tenner.planning.vram import Load

ROOT = Path(__file__).parents[2]


def day(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.gpu_day", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_rehearsal_measures_every_kind_of_row_and_a_second_one_none(tmp_path: Path) -> None:
    done = day("--out", str(tmp_path), "--rehearse")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows = {row["name"]: row for row in map(json.loads, lines)}
    assert {row["part"] for row in rows.values()} == {1, 2, 3, 4, 5, 6}
    assert all(row["passed"] for row in rows.values())
    assert rows["speed sd1 batch 2 checkpointing turn 1 native"]["seconds_per_step"] > 0
    partial = ["speed sd1 batch 2 3 blocks turn 1 native", "memory sd1 rank 8 batch 2 blocks 9"]
    assert [rows[each]["checkpointed_blocks"] for each in partial] == [3, 9]
    whole = rows["memory sd1 rank 8 batch 2 checkpointing True"]
    assert whole["losses"] == rows[partial[1]]["losses"]
    report = (tmp_path / "report.md").read_text()
    assert all(f"| {each} |" in report for each in partial)
    assert any("PASSED" in line for line in rows["tests"]["tests"])
    without = rows["graphs off sd1 batch 1 turn 1"]
    graphs = rows["graphs on sd1 batch 1 turn 1"]
    assert graphs["losses"] == without["losses"]
    assert graphs["notices"] == ["trained without CUDA graphs: there is no NVIDIA card"]
    assert (without["notices"], graphs["graphs_captured"]) == ([], False)
    assert rows["profile sd1"]["operations"] > 100
    measured = tomllib.loads((tmp_path / "measured.toml").read_text())
    assert {"card", "family", "batch_size", "seconds_per_step"} <= set(measured["speed"][0])
    names = (tmp_path / "measured.toml").read_text()
    assert "# speed sd1 batch 2 checkpointing turn 1 native" in names
    assert "blocks" not in names, "the models know all or none"
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    again = day("--out", str(tmp_path), "--rehearse", "--part", "6")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("\n  ") == 1, "only the row that was cut is measured again"
    assert "| speed sd1 batch 1 turn 1 native |" in day("report", str(tmp_path)).stdout


def test_the_kit_starts_on_a_python_that_has_nothing_installed(tmp_path: Path) -> None:
    """Packages come from the folder of wheels, which is asked for before any is imported."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from bench.gpu_day.__main__ import main\n"
        f"main(['--out', {str(tmp_path)!r}])"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "not installed: " in done.stderr
    assert "give --wheels DIR" in done.stderr


def test_what_requests_needs_is_among_the_wheels() -> None:
    """Wheels are installed without their dependencies, so each of them is listed itself."""
    assert "urllib3" in packages()


def test_the_kit_brings_all_that_the_program_wants_of_a_trainer() -> None:
    assert {each for each in MODULES if each != "torch"} <= set(packages())


def test_each_trainer_is_measured_as_it_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an RTX 3060 the built-in trainer recomputes some of SDXL's blocks, sd-scripts all."""
    card = {"card": "NVIDIA GeForce RTX 3060", "free_gb": 12.4}
    monkeypatch.setattr(parts, "_MACHINE", card)
    own_day = Day(out=tmp_path, sd_scripts=None, is_rehearsal=False, python_path="")
    memory = CardMemory(name=card["card"], free_mib=int(12.4e9 / 2**20))
    for engine in ("native", "sd-scripts"):
        load = Load(family="sdxl", pixels=1024**2, network_dim=32, engine=engine)
        choice = choose_batch(load, memory, Wish(most_images=64))
        assert planned(own_day, "sdxl", engine) == Shape(
            batch=choice.batch_size,
            checkpointing=choice.gradient_checkpointing,
            blocks=choice.checkpointed_blocks,
        )
        assert (choice.checkpointed_blocks is not None) == (engine == "native")
    names = [row.name for row in PARTS[2](own_day) if " sdxl " in row.name and "turn 1" in row.name]
    assert len(names) == len(set(names)) == 5
    assert [each for each in names if "blocks" in each and "sd-scripts" in each] == []
    memory_rows = [row.name for row in PARTS[4](own_day)]
    assert len(memory_rows) == len(set(memory_rows)) == 40
    assert {each.split()[1] for each in memory_rows if "blocks" in each} == {"sd1", "sdxl"}

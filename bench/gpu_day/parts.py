"""The parts of the day, each a list of rows that are measured one after the other.

A row is a training, a test run or a start of the whole program, in a process of its own. What is
planned for a card (batch, checkpointing) is what `tenner plan` decides.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_day.bases import write_pictures
from bench.gpu_day.rows import Reported, add_row, follow, make_job, read_rows, train

PART_SECONDS = 520.0
ROW_SECONDS = 240.0
SIDES = {"sd1": 512, "sdxl": 1024}
STEPS = 15
ROOT = Path(__file__).resolve().parents[2]

Measure = Callable[["Day", float], Mapping[str, Any]]
"""Measures a row in at most so many seconds."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row to measure; `name` is unique over all parts."""

    name: str
    measure: Measure
    in_rehearsal: bool = True


@dataclass(frozen=True, kw_only=True)
class Day:
    """Where rows go, and what they are measured with."""

    out: Path
    sd_scripts: Path | None
    is_rehearsal: bool
    python_path: str

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": self.python_path,
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            "GPU_DAY_REHEARSAL": "1" if self.is_rehearsal else "",
        }

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.out / "rows.jsonl")

    def run_part(self, number: int) -> int:
        """Measure the rows of a part that are not there yet; how many of them failed."""
        done = {row["name"] for row in self.rows() if not row.get("left_out")}
        ends, failures = time.monotonic() + PART_SECONDS, 0
        for row in PARTS[number](self):
            if row.name in done or (self.is_rehearsal and not row.in_rehearsal):
                continue
            left = ends - time.monotonic()
            found: dict[str, Any] = {"part": number, "name": row.name, **machine(self)}
            if left < 20:
                found |= {"left_out": "no time is left in this part: start it again"}
            else:
                started = time.monotonic()
                found |= row.measure(self, min(left, ROW_SECONDS))
                found["row_seconds"] = round(time.monotonic() - started, 1)
                failures += not found.get("passed", False)
            add_row(self.out / "rows.jsonl", found)
            shown = {key: found.get(key) for key in ("passed", "seconds_per_step", "reserved_gb")}
            print(f"  {row.name}: {found.get('left_out') or shown}", flush=True)
        return failures

    def base(self, family: str) -> Path:
        """The base's folder, made where it is not there yet."""
        if self.is_rehearsal:
            from tenner.base.tiny import base_dir

            return base_dir()
        folder = self.out / "bases" / family
        if not (folder / "model_index.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            command = [sys.executable, "-m", "bench.gpu_day.bases", str(folder), family]
            subprocess.run(command, env=self.environ, check=True, cwd=ROOT)
        return folder

    def side(self, family: str) -> int:
        return 64 if self.is_rehearsal else SIDES[family]

    def pictures(self, family: str) -> list[Path]:
        side = self.side(family)
        return write_pictures(self.out / f"pictures-{side}", side=side, count=8)


_MACHINE: dict[str, Any] = {}


def machine(day: Day) -> dict[str, Any]:
    """The card and the versions, read once, in a process of its own."""
    if not _MACHINE:
        code = (
            "import json, torch; here = torch.cuda.is_available();"
            "free, total = torch.cuda.mem_get_info() if here else (0, 0);"
            "print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda,"
            " 'card': torch.cuda.get_device_name() if here else 'cpu', 'free_gb': free / 1e9,"
            " 'total_gb': total / 1e9}))"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=day.environ, capture_output=True, text=True, check=True)
        _MACHINE.update(json.loads(done.stdout))
    return _MACHINE


def training(name: str, family: str, *, in_rehearsal: bool = True, **changes: Any) -> Row:
    """A training by the built-in trainer. It passes where it ends well, or runs out of memory and
    reports it where `may_not_fit`; with CUDA graphs only where a card has captured them."""
    may_not_fit = bool(changes.pop("may_not_fit", False))

    def measure(day: Day, limit: float) -> dict[str, Any]:
        options = {"train_batch_size": 1, "max_train_steps": STEPS, **changes}
        if day.is_rehearsal:
            options |= {"max_train_steps": 6, "mixed_precision": "no", "network_dim": 4}
            options |= {"optimizer_type": "AdamW", "num_threads": 1}
        pictures = day.pictures(family)
        folder = day.out / "work"
        job = make_job(
            day.base(family), family if not day.is_rehearsal else "sd1", pictures, folder,
            side=day.side(family), **options,
        )  # fmt: skip
        reported = train(job, day.environ, limit=limit)
        shutil.rmtree(folder, ignore_errors=True)
        passes = reported.returncode == 0 or (may_not_fit and reported.returncode == 20)
        if options.get("cuda_graphs") and not day.is_rehearsal:
            passes = passes and reported.graphs_captured
        about = {"engine": "native", "family": family, "side": day.side(family), **options}
        return {**about, **reported.row(), "passed": passes}

    return Row(name=name, measure=measure, in_rehearsal=in_rehearsal)


def program(
    name: str, family: str, engine: str, *, in_rehearsal: bool, left_gb: float = 0.0, **changes: Any
) -> Row:
    """A start of the whole program with either trainer, read from its events. With `left_gb` all
    memory of the card but that is taken away once the run is planned: it passes where the batch was
    made smaller for it."""

    def measure(day: Day, limit: float) -> dict[str, Any]:
        if engine == "sd-scripts" and day.sd_scripts is None:
            return {"engine": engine, "passed": True, "not_measured": "--sd-scripts was not given"}
        output = day.out / "work"
        shutil.rmtree(output, ignore_errors=True)
        pictures = day.pictures(family)
        settings = {
            "engine": engine,
            "base_model": str(day.base(family)),
            "dataset": str(pictures[0].parent),
            "resolution": day.side(family),
            "output_dir": str(output),
            "max_train_steps": STEPS,
            "network_train_unet_only": "true",
            **changes,
        }
        if day.is_rehearsal:
            settings |= {"device": "cpu", "max_train_steps": 3, "network_dim": 4, "batch_size": 1}
            settings |= {"optimizer_type": "AdamW", "min_bucket_reso": 64}
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        environ = day.environ
        if day.sd_scripts:
            environ |= {
                "SD_SCRIPTS_DIR": str(day.sd_scripts),
                "TENNER_TRAINER_PYTHON": os.environ.get("TENNER_TRAINER_PYTHON", sys.executable),
            }
        command = [sys.executable, "-m", "tenner", "train", *words, "--no_samples"]
        output.mkdir(parents=True)
        errors = day.out / "program.log"
        plan_file = output / "my_lora" / "plan.json"
        with _hog(plan_file, left_gb, environ):
            done = follow(command, environ, limit=limit, errors=errors)
        reported = _read_events(output / "my_lora" / "events.jsonl", done)
        plan = json.loads(plan_file.read_text()) if plan_file.is_file() else {}
        options = plan.get("options", {})
        about = {
            "engine": engine,
            "family": family,
            "side": day.side(family),
            "needed_gb": plan.get("needed_gb"),
            **{key: options.get(key) for key in _BATCH},
            "network_dim": options.get("network_dim"),
            "optimizer_type": options.get("optimizer_type"),
        }
        smaller = _smaller_batch(output / "my_lora" / "ledger.json")
        passes = reported.returncode == 0 and (
            not left_gb or day.is_rehearsal or smaller is not None
        )
        return {**about, **reported.row(), "batch_after_memory_ran_out": smaller, "passed": passes}

    return Row(name=name, measure=measure, in_rehearsal=in_rehearsal)


@contextlib.contextmanager
def _hog(plan: Path, left_gb: float, environ: Mapping[str, str]) -> Iterator[None]:
    if not left_gb:
        yield
        return
    command = [sys.executable, "-m", "bench.gpu_day.hog", str(plan), str(left_gb)]
    with subprocess.Popen(command, env=dict(environ), cwd=ROOT, stdin=subprocess.PIPE) as process:
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def _smaller_batch(ledger: Path) -> int | None:
    """The batch that a run fell back to where memory ran out; None where it did not."""
    if not ledger.is_file():
        return None
    found = json.loads(ledger.read_text(encoding="utf-8")).get("savings") or {}
    return found.get("train_batch_size")


def _read_events(path: Path, done: Reported) -> Reported:
    from datetime import datetime

    from tenner.core.events import parse_event

    found = Reported(returncode=done.returncode, errors=done.errors)
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        time_of = json.loads(line).get("time")
        second = datetime.fromisoformat(time_of).timestamp() if time_of else 0.0
        found.add(parse_event(line), second)
    return found


_BATCH = ("train_batch_size", "gradient_checkpointing", "checkpointed_blocks")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Batch and checkpointing of a row; `blocks` is how many of the U-Net's are recomputed, None
    all."""

    batch: int
    checkpointing: bool = False
    blocks: int | None = None

    @property
    def label(self) -> str:
        """In a row's name."""
        return f"batch {self.batch}{f' {self._recomputed}' if self.checkpointing else ''}"

    @property
    def _recomputed(self) -> str:
        return "checkpointing" if self.blocks is None else f"{self.blocks} blocks"

    @property
    def options(self) -> dict[str, Any]:
        """For the built-in trainer's job."""
        return {
            "train_batch_size": self.batch,
            "gradient_checkpointing": self.checkpointing,
            "checkpointed_blocks": self.blocks,
        }


def planned(day: Day, family: str, engine: str, *, cuda_graphs: bool = False) -> Shape:
    """What is planned for this card and one of the trainers."""
    from tenner.planning.batch_choice import CardMemory, Wish
    from tenner.planning.sizing import choose_batch
    from tenner.planning.vram import Load

    if day.is_rehearsal:
        return Shape(batch=2, checkpointing=True, blocks=3 if engine == "native" else None)
    card = machine(day)
    memory = CardMemory(name=card["card"], free_mib=int(card["free_gb"] * 1e9 / 2**20))
    load = Load(
        family=family,  # pyright: ignore[reportArgumentType]
        pixels=SIDES[family] ** 2,
        network_dim=32,
        engine=engine,  # pyright: ignore[reportArgumentType]
        cuda_graphs=cuda_graphs,
    )
    choice = choose_batch(load, memory, Wish(most_images=64))
    return Shape(
        batch=choice.batch_size,
        checkpointing=choice.gradient_checkpointing,
        blocks=choice.checkpointed_blocks,
    )


def _tests(day: Day) -> Iterator[Row]:
    """tests/gpu"""

    def measure(day: Day, limit: float) -> dict[str, Any]:
        command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
        command += ["-c", str(ROOT / "bench/gpu_day/pytest.ini"), "--rootdir", str(ROOT)]
        command += ["--confcutdir", str(ROOT / "tests/gpu"), str(ROOT / "tests/gpu")]
        log = day.out / "tests.log"
        with log.open("wb") as file:
            try:
                code = subprocess.run(
                    command, env=day.environ, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                    timeout=limit, check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                code = -9
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        kinds = ("PASSED", "FAILED", "ERROR", "SKIPPED")
        results = [line[:300] for line in lines if line.startswith(kinds)]
        return {"returncode": code, "tests": results, "passed": code == 0}

    yield Row(name="tests", measure=measure)


def _speed(day: Day) -> Iterator[Row]:
    """seconds and memory of a step, both families and trainers in turns"""
    for turn in (1, 2):
        for family in SIDES:
            first = turn == 1 and family == "sd1"
            own, other = (planned(day, family, engine) for engine in ("native", "sd-scripts"))
            for shape in dict.fromkeys((Shape(batch=1), other, own)):
                name = f"speed {family} {shape.label} turn {turn}"
                yield training(f"{name} native", family, in_rehearsal=first, **shape.options)
                if shape not in (Shape(batch=1), other):
                    continue  # sd-scripts might not have the memory, and recomputes all or none
                settings = {
                    "batch_size": shape.batch,
                    "gradient_checkpointing": str(shape.checkpointing).lower(),
                }
                yield program(
                    f"{name} sd-scripts", family, "sd-scripts", in_rehearsal=first, **settings
                )


def _options(day: Day) -> Iterator[Row]:
    """optimizers, precisions, layouts and compilation, on and off"""
    options: dict[str, dict[str, Any]] = {
        "AdamW": {"optimizer_type": "AdamW"},
        "AdamW8bit": {"optimizer_type": "AdamW8bit"},
        "fp16": {"mixed_precision": "fp16"},
        "fp32": {"mixed_precision": "no"},
        "channels first": {"channels_last": False},
        "text encoders": {"network_train_unet_only": False},
        "compiled": {"torch_compile": True, "max_train_steps": 20},
    }
    for family in SIDES:
        for name, changes in options.items():
            rehearsed = family == "sd1" and name in ("channels first", "text encoders")
            full_name = f"options {family} {name}"
            yield training(full_name, family, in_rehearsal=rehearsed, may_not_fit=True, **changes)


def _graphs(day: Day) -> Iterator[Row]:
    """CUDA graphs off and on in turns"""
    for turn in (1, 2):
        for family in SIDES:
            own = planned(day, family, "native", cuda_graphs=True)
            for shape in dict.fromkeys((Shape(batch=1), own)):
                for on in (False, True):
                    yield training(
                        f"graphs {'on' if on else 'off'} {family} {shape.label} turn {turn}",
                        family,
                        in_rehearsal=family == "sd1" and turn == 1 and shape.batch == 1,
                        cuda_graphs=on,
                        max_train_steps=25,
                        **shape.options,
                    )


PARTIAL = {"sd1": (9, 25), "sdxl": (29, 69)}
"""Blocks that are recomputed in rows of memory, which free 70 and 95 % of what SD 1.5's 38 do, and
46 and 94 % of what SDXL's 87 do."""


def _memory(day: Day) -> Iterator[Row]:
    """peaks of memory over batch, rank and checkpointing: none, some and all blocks"""
    for rank in (8, 128):
        for batch in (1, 2, 4, 8):
            for family in SIDES:
                for saving in (False, True):
                    shape = Shape(batch=batch, checkpointing=saving)
                    name = f"memory {family} rank {rank} batch {batch} checkpointing {saving}"
                    yield _memory_row(name, family, rank, shape)
        for family, numbers in PARTIAL.items():
            for blocks in numbers:
                shape = Shape(batch=2, checkpointing=True, blocks=blocks)
                name = f"memory {family} rank {rank} batch 2 blocks {blocks}"
                yield _memory_row(name, family, rank, shape)


def _memory_row(name: str, family: str, rank: int, shape: Shape) -> Row:
    return training(
        name,
        family,
        in_rehearsal=(family, rank, shape.batch) == ("sd1", 8, 2) and shape.blocks != 25,
        may_not_fit=True,
        network_dim=rank,
        max_train_steps=3,
        **shape.options,
    )


def _program(day: Day) -> Iterator[Row]:
    """the whole program: a batch that does not fit, one that fills the card; a profile of steps"""
    yield program(
        "program batch max", "sd1", "native", in_rehearsal=False, batch_size="max",
        max_train_steps=3,
    )  # fmt: skip
    yield program(
        "program out of memory", "sdxl", "native", in_rehearsal=True, left_gb=24.0, batch_size=4,
        may_change_batch="true", gradient_checkpointing="false", max_train_steps=2,
    )  # fmt: skip
    for family in SIDES:
        yield _profile(family)


def _profile(family: str) -> Row:
    def measure(day: Day, limit: float) -> dict[str, Any]:
        options: dict[str, Any] = {"train_batch_size": 1, "max_train_steps": 8}
        if day.is_rehearsal:
            options |= {"mixed_precision": "no", "optimizer_type": "AdamW", "num_threads": 1}
        job = make_job(
            day.base(family), family if not day.is_rehearsal else "sd1", day.pictures(family),
            day.out / "work", side=day.side(family), **options,
        )  # fmt: skip
        Path(job.cache_dir or "").mkdir(parents=True, exist_ok=True)
        path = day.out / f"profile-{family}.job.json"
        path.write_text(job.to_json(), encoding="utf-8")
        trace = day.out / f"profile-{family}.trace.json.gz"
        command = [sys.executable, "-m", "bench.gpu_day.profiled", str(path), str(trace)]
        done = subprocess.run(
            command, env=day.environ, cwd=ROOT, capture_output=True, text=True, timeout=limit,
            check=False,
        )  # fmt: skip
        counts = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        return {
            "family": family, **counts, "returncode": done.returncode,
            "errors": done.stderr[-600:] if done.returncode else "",
            "passed": done.returncode == 0,
        }  # fmt: skip

    return Row(name=f"profile {family}", measure=measure, in_rehearsal=family == "sd1")


PARTS: dict[int, Callable[[Day], Iterator[Row]]] = {
    1: _tests,
    2: _speed,
    3: _options,
    4: _memory,
    5: _program,
    6: _graphs,
}

"""The whole program on the tiny base, as users start it: short jobs, killed and started again."""

import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parents[1] / "hardware"))

from fake_smi import install_smi
from fake_torch import install_torch

from tenner.base.tiny import concept_dir
from tenner.families import FAMILIES

SHORT = (
    *("--base_model", "tiny", "--resolution", "64", "--min_bucket_reso", "64"),
    *("--batch_size", "4", "--network_dim", "4", "--optimizer_type", "AdamW"),
    *("--learning_rate", "1e-3", "--no_samples"),
)


def environment(**extra: str) -> dict[str, str]:
    """This process's, without what steers tenner."""
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("TENNER_", "SD_"))
    }
    # The stand-in for sd-scripts is steered by variables that no trainer is given else.
    return {**environ, "OMP_NUM_THREADS": "1", "TENNER_CHILD_ENV": "STAND_IN*", **extra}


class Machine:
    """A working directory: a machine of its own, where nothing of a run is unless it is brought."""

    def __init__(self, folder: Path, **extra: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.environ = environment(**extra)
        self.log = folder / "program.log"

    def run(self, name: str) -> Path:
        return self.folder / "output" / name

    def events(self, name: str, kind: str = "") -> list[dict[str, Any]]:
        path = self.run(name) / "events.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [each for each in found if not kind or each["event"] == kind]

    def ledger(self, name: str) -> dict[str, Any]:
        return json.loads((self.run(name) / "ledger.json").read_text())

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tenner", *args],
                cwd=self.folder,
                env=self.environ,
                stdout=log,
                stderr=log,
            )

    def finish(self, *args: str, timeout: float = 400) -> int:
        return self.start(*args).wait(timeout)

    def train(self, name: str, *args: str) -> tuple[str, ...]:
        return ("train", str(concept_dir()), *SHORT, "--output_name", name, *args)

    def cut(
        self,
        args: tuple[str, ...],
        when: Callable[[], bool],
        sent: signal.Signals = signal.SIGKILL,
    ) -> int:
        """Start the program, signal it once `when` holds, and give its exit code."""
        process = self.start(*args)
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and process.poll() is None and not when():
            time.sleep(0.01)
        process.send_signal(sent)
        return process.wait(60)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


def same_weights(one: Path, other: Path) -> bool:
    with safe_open(one, "pt") as first, safe_open(other, "pt") as second:
        names = set(first.keys())
        return names == set(second.keys()) and all(
            first.get_tensor(name).equal(second.get_tensor(name)) for name in names
        )


def trainer_of(supervisor: int) -> int | None:
    """The process of the trainer that a program has started, by its words."""
    for each in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            args = (each / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if parent == supervisor and (b"train_network.py" in args or b"native.train" in args):
            return int(each.name)
    return None


LONG_RUN = ("--max_train_steps", "900", "--save_every_n_steps", "10")
"""Of the stand-in trainer: longer than a test needs to end it."""


class StandIn(Machine):
    """A machine with a card (by a fake nvidia-smi) and a stand-in for sd-scripts."""

    def __init__(self, folder: Path, card: str = "NVIDIA GeForce RTX 4090", **extra: str) -> None:
        super().__init__(folder, **extra)
        scripts, programs = folder / "sd-scripts", folder / "bin"
        for location in (scripts, programs):
            location.mkdir(exist_ok=True)
        trainer = Path(__file__).parent / "stand_in_trainer.py"
        for name in ("train_network.py", "sdxl_train_network.py", "flux_train_network.py"):
            shutil.copy(trainer, scripts / name)
        for name in FAMILIES["flux"].trainer_files:
            (scripts / name).parent.mkdir(parents=True, exist_ok=True)
            (scripts / name).touch()
        python = programs / "python"
        # Asked what it lacks of sd-scripts' modules it lacks none; anything else is run.
        modules = install_torch(folder / "modules")["PYTHONPATH"]
        answers = 'case "$2" in *find_spec*) echo; exit 0;;\n'
        # The trial of the card finds a torch that computes on it.
        answers += f'*try_torch*) echo >> "{folder}/trials"; export PYTHONPATH="{modules}";; esac'
        python.write_text(f'#!/bin/sh\n{answers}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        described = {"name": card, "memory.total": 24564, "memory.free": 24000}
        described |= {"driver_version": "550.54.14", "compute_cap": "8.9"}
        self.programs = programs
        self.card = described
        self.describe(described)
        self.environ |= {
            "PATH": f"{programs}{os.pathsep}{self.environ['PATH']}",
            "SD_SCRIPTS_DIR": str(scripts),
            "TENNER_TRAINER_PYTHON": str(python),
        }
        self.base = sparse_base(folder / "base.safetensors")

    def describe(self, *cards: dict[str, object]) -> None:
        """Set what nvidia-smi reports of the cards from now on."""
        install_smi(self.programs, cards)

    def train(self, name: str, *args: str) -> tuple[str, ...]:
        return (
            *("train", str(concept_dir()), "--base_model", str(self.base), "--resolution", "512"),
            *("--no_samples", "--output_name", name, *args),
        )

    def commands(self, name: str) -> list[dict[str, str]]:
        """The arguments of each start of the stand-in."""
        path = self.run(name) / "engine.log"
        text = [line for line in path.read_text().splitlines() if line.startswith("STARTED ")]
        return [json.loads(line.removeprefix("STARTED ")) for line in text]


def sparse_base(path: Path) -> Path:
    """What looks like an SD 1.5 checkpoint of full size and is sparse."""
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3],
        "cond_stage_model.transformer.text_model.embeddings.position_ids": [1, 77],
        "model.diffusion_model.out.2.weight": [100_000_000],
    }
    header: dict[str, object] = {}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(raw)) + raw)
        out.truncate(8 + len(raw) + at)
    return path

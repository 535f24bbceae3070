"""The whole program on the tiny base, as users start it: short jobs, killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tenner.tiny import concept_dir

SHORT = (
    *("--base_model", "tiny", "--resolution", "64", "--min_bucket_reso", "64"),
    *("--batch_size", "4", "--network_dim", "4", "--optimizer_type", "AdamW"),
    *("--learning_rate", "1e-3", "--no_samples"),
)


def environment(**extra: str) -> dict[str, str]:
    """This process's, without what steers tenner."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("TENNER_", "SD_"))
    }
    return {**kept, "OMP_NUM_THREADS": "1", **extra}


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

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tenner", *words],
                cwd=self.folder,
                env=self.environ,
                stdout=log,
                stderr=log,
            )

    def finish(self, *words: str, timeout: float = 120) -> int:
        return self.start(*words).wait(timeout)

    def train(self, name: str, *words: str) -> tuple[str, ...]:
        return ("train", str(concept_dir()), *SHORT, "--output_name", name, *words)

    def cut(
        self,
        words: tuple[str, ...],
        when: Callable[[], bool],
        sent: signal.Signals = signal.SIGKILL,
    ) -> int:
        """Start the program, signal it once `when` holds, and give its exit code."""
        process = self.start(*words)
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and process.poll() is None and not when():
            time.sleep(0.01)
        process.send_signal(sent)
        return process.wait(60)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


def same_weights(one: Path, other: Path) -> bool:
    with safe_open(one, "pt") as first, safe_open(other, "pt") as second:
        names = set(first.keys())
        return names == set(second.keys()) and all(
            first.get_tensor(name).equal(second.get_tensor(name)) for name in names
        )

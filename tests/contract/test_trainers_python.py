"""What of tenner runs in the trainer's Python imports nothing that only tenner's own has.

The image keeps two environments, by two locks; here one has all, so the imports are watched.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

LOCKS = Path(__file__).resolve().parents[2] / "docker" / "locks"
MODULES = (
    "tenner.engines.native.train",
    "tenner.engines.sd_scripts.lycoris_ia3",
    "tenner.engines.sd_scripts.with_states",
    "tenner.lora_files.measuring",
    "tenner.sample.draw",
    "tenner.warm.worker",
    "tenner.hardware.trial_child",
    "tenner.optimizers.trial_child",
)
"""Modules that `tenner` starts with TENNER_TRAINER_PYTHON."""
WITH_A_TRACKER = {"pydantic", "httpx"}
"""In the image's trainer because wandb needs them; a trainer's Python elsewhere has none."""
WATCH = """
import builtins, importlib, sys
forbidden, module = set(sys.argv[1].split()), sys.argv[2]
original = builtins.__import__
def watched(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if not level and importer.startswith("tenner") and name.split(".")[0] in forbidden:
        raise SystemExit(f"{importer} imports {name}")
    return original(name, globals, locals, fromlist, level)
builtins.__import__ = watched
sys.argv[1:] = []
importlib.import_module(module)
"""


def locked(name: str) -> set[str]:
    text = (LOCKS / name).read_text(encoding="utf-8")
    names = re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)
    return {each.lower().replace("-", "_") for each in names}


@pytest.mark.parametrize("module", MODULES)
def test_it_needs_only_what_the_trainer_has(module: str) -> None:
    pytest.importorskip("torch")
    own = locked("tenner.txt") - locked("trainer-cu121.txt") | WITH_A_TRACKER
    assert "pydantic_settings" in own
    done = subprocess.run(
        [sys.executable, "-c", WATCH, " ".join(sorted(own)), module],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    output = done.stderr.strip().splitlines()
    assert not any("imports" in line for line in output[-1:]), output[-1]

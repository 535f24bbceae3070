"""Whether sd-scripts can be used here, and if not, why not."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tenner.core.command import NO_COMPILE_WORKERS
from tenner.core.errors import Problem
from tenner.core.messages import Message, msg
from tenner.core.secrets import child_environ
from tenner.kohya.options import pinned_commit

DIRECTORY_VARIABLE = "SD_SCRIPTS_DIR"
PYTHON_VARIABLE = "TENNER_TRAINER_PYTHON"

MODULES = (
    *("torch", "torchvision", "accelerate", "diffusers", "transformers", "safetensors"),
    *("cv2", "einops", "huggingface_hub", "imagesize", "numpy", "toml", "tqdm", "voluptuous"),
)
"""What its trainers import; most of a minute passes before a missing one is reported by them."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """sd-scripts' folder, the Python that runs it, and the commit where it is known."""

    directory: Path
    python: Path
    commit: str | None = None

    @property
    def notices(self) -> tuple[Problem, ...]:
        """What is worth knowing about it."""
        if self.commit in (None, pinned_commit()):
            return ()
        text = msg(
            "sd-scripts is at commit {commit}; tenner knows {pinned_commit}",
            commit=self.commit,
            pinned_commit=pinned_commit(),
        )
        fix = msg("options may have changed: check out the known commit")
        return (Problem(text=text, fix=fix, level="warning"),)


def find(environ: Mapping[str, str]) -> Trainer | Problem:
    """The trainer that the environment names, or why there is none.

    `SD_SCRIPTS_DIR` names its folder; `TENNER_TRAINER_PYTHON` a Python that holds torch and its
    requirements (default: this one). That Python looks its modules up without importing
    them (a tenth of a second; importing torch and diffusers takes ten).
    """
    named = environ.get(DIRECTORY_VARIABLE)
    if not named:
        return _absent(
            msg("{directory_variable} is not set", directory_variable=DIRECTORY_VARIABLE),
            msg("name the folder of sd-scripts in it"),
        )
    directory = Path(named).expanduser().absolute()
    missing = [name for name in SCRIPTS if not (directory / name).is_file()]
    if missing:
        text = msg(
            "{directory_variable} = {directory} holds no {missing}",
            directory_variable=DIRECTORY_VARIABLE,
            directory=directory,
            missing=missing[0],
        )
        return _absent(text, msg("name the folder that sd-scripts was cloned to"))
    python = Path(environ.get(PYTHON_VARIABLE) or sys.executable).expanduser()
    if not os.access(python, os.X_OK) or python.is_dir():
        text = msg(
            "{python_variable} = {python} is no program",
            python_variable=PYTHON_VARIABLE,
            python=python,
        )
        return _absent(
            text, msg("name the Python of sd-scripts' environment, such as venv/bin/python")
        )
    problem = _modules_problem(python)
    return problem or Trainer(directory=directory, python=python, commit=_commit(directory))


def try_import(trainer: Trainer, *, timeout_seconds: float = 180) -> Problem | None:
    """Import the trainer; the problem where it fails. For `doctor`: it takes ten seconds."""
    code = "import train_network, sdxl_train_network"
    try:
        done = subprocess.run(
            [trainer.python, "-c", code],
            cwd=trainer.directory,
            env={**NO_COMPILE_WORKERS, **child_environ()},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _absent(
            msg("importing sd-scripts takes more than three minutes"), msg("see its disk and CPU")
        )
    if done.returncode == 0:
        return None
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no word")
    return _absent(
        msg("sd-scripts does not import: {last}", last=last),
        msg("install its requirements as pinned"),
    )


def _modules_problem(python: Path) -> Problem | None:
    code = (
        "import sys, importlib.util as u;"
        "print(' '.join(n for n in sys.argv[1:] if not u.find_spec(n)))"
    )
    fix = msg(
        "install sd-scripts' requirements there, or name another Python in {python_variable}",
        python_variable=PYTHON_VARIABLE,
    )
    try:
        done = subprocess.run(
            [python, "-c", code, *MODULES],
            env=child_environ(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _absent(msg("{python} does not start: {error}", python=python, error=error), fix)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        return _absent(
            msg(
                "{python} does not work: {words}",
                python=python,
                words=words[-1] if words else msg("no word"),
            ),
            fix,
        )
    missing = done.stdout.split()
    return (
        _absent(msg("{python} lacks {missing}", python=python, missing=", ".join(missing)), fix)
        if missing
        else None
    )


def _commit(directory: Path) -> str | None:
    """The commit that a clone is at, read from git's own files; None outside a clone."""
    head = _read(directory / ".git" / "HEAD")
    if head.startswith("ref: "):
        head = _read(directory / ".git" / head.removeprefix("ref: "))
    return head if len(head) == 40 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _absent(text: Message, fix: Message) -> Problem:
    return Problem(text=text, fix=fix, level="note")


SCRIPTS = ("train_network.py", "sdxl_train_network.py")

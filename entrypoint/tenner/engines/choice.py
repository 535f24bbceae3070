"""Which engine trains, and in which Python: sd-scripts where it is installed, else our own."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tenner.core.errors import MachineError, Problem, SettingsError
from tenner.core.family import Family
from tenner.core.messages import NO_TEXT, Message, msg
from tenner.core.secrets import child_environ
from tenner.engines.sd_scripts.find import PYTHON_VARIABLE, Trainer, find
from tenner.families import FAMILIES, FamilyFacts
from tenner.settings.model import Settings

EngineName = Literal["sd-scripts", "native"]
MODULES = ("torch", "diffusers", "transformers", "peft", "safetensors", "numpy")
"""What training and sampling import of other packages."""


@dataclass(frozen=True, kw_only=True)
class ChosenEngine:
    """`python` runs training and sampling; `trainer` is sd-scripts where that was chosen."""

    name: EngineName
    python: Path
    reason: str
    trainer: Trainer | None = None
    notices: tuple[Problem, ...] = ()


def choose_engine(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    tiny: bool = False,
    other_noise: str = "",
    family: Family | None = None,
) -> ChosenEngine:
    """The engine that was requested, or the best that is here.

    sd-scripts has SD's sizes written into it, so the tiny base is always trained by our own; so is
    a base whose noise schedule is not Stable Diffusion's, described in `other_noise`.
    Raises MachineError where the engine, or any at all, is not installed, SettingsError where the
    engine that was requested cannot train this base.
    """
    python = Path(environ.get(PYTHON_VARIABLE) or sys.executable)
    name, reason = possible_engine(settings, tiny=tiny, other_noise=other_noise, family=family)
    if name == "native":
        return _own(python, reason=reason)
    found = find(environ)
    if isinstance(found, Trainer):
        if family is not None:
            _demand_files(found.directory, FAMILIES[family])
        why = reason or msg("installed here")
        return ChosenEngine(
            name="sd-scripts",
            python=found.python,
            reason=why,
            trainer=found,
            notices=found.notices,
        )
    if name == "sd-scripts":
        raise MachineError(
            msg("sd-scripts cannot be used here: {text}", text=found.text), fix=found.fix
        )
    return _own(python, reason=msg("sd-scripts is not here: {text}", text=found.text))


def _demand_files(directory: Path, facts: FamilyFacts) -> None:
    """Raises MachineError where sd-scripts' folder lacks what it trains the family with."""
    missing = [each for each in facts.from_trainer if not (directory / each).is_file()]
    if missing:
        raise MachineError(
            msg(
                "sd-scripts in {directory} has no {missing}, which {family} needs",
                directory=directory,
                missing=", ".join(missing),
                family=facts.title,
            ),
            fix=msg("clone all of sd-scripts, at the commit that `tenner version` prints"),
        )


def possible_engine(
    settings: Settings, *, tiny: bool, other_noise: str, family: Family | None = None
) -> tuple[EngineName | None, str]:
    """The engine that settings and base leave, with the reason; None where it depends on what is
    installed. Raises SettingsError where the engine that was requested cannot train this base."""
    requested = settings.engine
    only = _only_sd_scripts(settings, family)
    if only and requested == "native":
        raise SettingsError(
            only, fix=msg("train with sd-scripts (engine = 'sd-scripts'), or leave engine out")
        )
    if tiny and requested == "sd-scripts":
        text = msg(
            "sd-scripts cannot train the tiny base: it has Stable Diffusion's sizes written into it"
        )
        fix = msg(
            "train it with the built-in trainer (engine = 'native'), or name another base_model"
        )
        raise SettingsError(text, fix=fix)
    if settings.ema and requested == "sd-scripts":
        raise SettingsError(
            msg("sd-scripts keeps no moving average of the weights (ema)"),
            fix=msg("train with the built-in trainer (engine = 'native'), or remove ema"),
        )
    if requested == "native":
        return "native", msg("as set")
    if tiny:
        return "native", msg("the tiny base is trained by the built-in one")
    if settings.ema:
        return "native", msg("sd-scripts keeps no moving average of the weights (ema)")
    if other_noise and requested == "sd-scripts":
        raise SettingsError(
            msg(
                "sd-scripts trains with Stable Diffusion's noise schedule alone, and the base has"
                " {other_noise}",
                other_noise=other_noise,
            ),
            fix=msg("train with the built-in trainer (engine = 'native')"),
        )
    if other_noise:
        return "native", msg(
            "sd-scripts cannot train the base's noise: {other_noise}", other_noise=other_noise
        )
    if requested == "sd-scripts":
        return "sd-scripts", msg("as set")
    return ("sd-scripts", only) if only else (None, "")


def _only_sd_scripts(settings: Settings, family: Family | None) -> Message:
    """Why the built-in trainer cannot do it; empty where it can."""
    if family is not None and "native" not in FAMILIES[family].trainers:
        return msg("the built-in trainer does not train {family}", family=FAMILIES[family].title)
    if settings.network_module != "networks.lora":
        return msg(
            "the built-in trainer has no {network_module}", network_module=settings.network_module
        )
    return NO_TEXT


def _own(python: Path, *, reason: str) -> ChosenEngine:
    missing = missing_modules(python, MODULES)
    if missing:
        raise MachineError(
            msg("{python} has no {missing}", python=python, missing=", ".join(missing)),
            fix=msg("pip install 'tenner[train]', or name another Python in TENNER_TRAINER_PYTHON"),
        )
    return ChosenEngine(name="native", python=python, reason=reason)


def missing_modules(python: Path, names: Sequence[str]) -> list[str]:
    """Modules of `names` that `python` does not find. Nothing is imported: torch alone takes
    seconds. Raises MachineError where it does not run."""
    if _same_file(python, Path(sys.executable)):
        return [name for name in names if importlib.util.find_spec(name) is None]
    code = (
        "import sys, importlib.util as u; print(*(n for n in sys.argv[1:] if not u.find_spec(n)))"
    )
    try:
        done = subprocess.run(
            [python, "-c", code, *names],
            env=child_environ(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineError(
            msg(
                "{python_variable} = {python} does not work: {error}",
                python_variable=PYTHON_VARIABLE,
                python=python,
                error=error,
            ),
            fix=msg("name a Python that has torch and diffusers, or leave it unset"),
        ) from error
    return done.stdout.split()


def _same_file(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other) and one.parent == other.parent

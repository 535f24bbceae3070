"""`tenner.inspect`: what a LoRA file is, on what it was trained, and whether it learnt anything.

Needs nothing but the file. Norms are measured by a process that has numpy: this Python where it is
installed, else the trainer's (TENNER_TRAINER_PYTHON); without either the rest is reported.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tenner.base.choice import MODELS_DIR
from tenner.base.local import find_local_base, not_found
from tenner.base.model import Base
from tenner.base.tiny import base_dir
from tenner.core.command import CHILD_DEFAULTS
from tenner.core.errors import Problem, SettingsError, errors_in
from tenner.core.messages import as_message, msg
from tenner.core.network_parts import PART_NAMES, Part
from tenner.core.secrets import child_environ
from tenner.core.temporary_files import temporary_folder
from tenner.core.weights import inspect_weights
from tenner.engines.sd_scripts.find import PYTHON_VARIABLE
from tenner.library.requests import environ_of
from tenner.lora_files.judgement import Training, judge
from tenner.lora_files.measured import Measured, MeasureJob, PartMeasure
from tenner.lora_files.programs import read_by
from tenner.lora_files.provenance import trained_on
from tenner.lora_files.reading import LoraFile, read_lora_file


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A LoRA file: its form, its measures (None where they could not be had) and what is wrong."""

    file: LoraFile
    measured: Measured | None
    problems: tuple[Problem, ...]

    @property
    def is_sound(self) -> bool:
        """Whether it learnt something, and holds finite numbers only."""
        return not errors_in(self.problems)

    def to_json(self) -> dict[str, Any]:
        """As `tenner inspect --json` prints it."""
        return _to_json(self.file, self.measured, self.problems)


def inspect(
    path: str | Path, base: str | None = None, *, environ: Mapping[str, str] | None = None
) -> Inspection:
    """All that is known of the LoRA at `path`; against a base that is here, also its size.

    Raises SettingsError where it is no LoRA, or the base is none.
    """
    given = environ_of(environ)
    try:
        file = read_lora_file(Path(path).expanduser())
        found_base = _base(base, given)
        broken = inspect_weights(file.path)
    except OSError as error:
        raise SettingsError(
            msg("{path} cannot be read: {strerror}", path=path, strerror=error.strerror or error)
        ) from error
    problems: list[Problem] = [broken] if isinstance(broken, Problem) else []
    measured: Measured | None = None
    if not problems:
        found = _measured(file, found_base, given)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            measured = found
            problems += judge(measured, _training(file))
            problems += _base_problems(measured, found_base)
    problems += _form_problems(file)
    return Inspection(file=file, measured=measured, problems=tuple(problems))


def _base(name: str | None, environ: Mapping[str, str]) -> Base | None:
    if name is None:
        return None
    models_dir = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    base = find_local_base(name, models_dir=models_dir, tiny_dir=base_dir())
    if base is None:
        raise not_found(name, models_dir)
    return base


def _measured(file: LoraFile, base: Base | None, environ: Mapping[str, str]) -> Measured | Problem:
    """The norms, measured by a process that has numpy; a note where they could not be."""
    python = sys.executable if find_spec("numpy") else environ.get(PYTHON_VARIABLE)
    if not python:
        text = msg("norms are not measured: numpy is not installed here")
        return Problem(text=text, fix=msg("pip install numpy"), level="note")
    job = MeasureJob(
        path=str(file.path.absolute()),
        base=str(base.path.absolute()) if base else "",
        family=base.family if base else "",
    )
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *environ.get("PYTHONPATH", "").split(os.pathsep)]
    settings = {"PYTHONPATH": os.pathsep.join(each for each in paths if each)}
    with temporary_folder("inspect") as folder:
        job_file = Path(folder) / "job.json"
        job_file.write_text(json.dumps(asdict(job)), encoding="utf-8")
        argv = [python, "-m", "tenner.lora_files.measuring", str(job_file)]
        surroundings = {**CHILD_DEFAULTS, **child_environ(environ), **settings}
        try:
            done = subprocess.run(
                argv, env=surroundings, capture_output=True, text=True, check=False
            )
        except OSError as error:
            return _not_measured(str(error))
    try:
        return Measured.from_json(done.stdout)
    except (ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines()
        return _not_measured(
            lines[-1] if lines else msg("the measuring program ended without a message")
        )


def _not_measured(why: str) -> Problem:
    return Problem(text=msg("norms are not measured: {why}", why=why), level="note")


def _training(file: LoraFile) -> Training:
    """The training as the file's metadata describes it, which anyone can have edited."""
    metadata = file.metadata
    unet = _number(metadata.get("ss_unet_lr")) or _number(metadata.get("ss_learning_rate"))
    text = _number(metadata.get("ss_text_encoder_lr")) or unet
    rates: dict[Part, float] = {}
    if unet is not None:
        rates["unet"] = unet
    if text is not None:
        rates["text_encoder"] = rates["text_encoder_2"] = text
    optimizer = metadata.get("ss_optimizer", "").partition("(")[0].rpartition(".")[2]
    steps = int(_number(metadata.get("ss_steps")) or 0)
    return Training(optimizer=optimizer, rates=rates, num_steps=steps, kind=file.kinds[0])


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _base_problems(measured: Measured, base: Base | None) -> list[Problem]:
    """Why there are no ratios, where a base was named."""
    if base is None:
        return []
    if measured.base_problem:
        return [Problem(text=as_message(measured.base_problem), level="warning")]
    return [
        Problem(
            text=msg(
                "{num_measured} of {num_measured2} modules of the {part_names} are not in {name}",
                num_measured=part.num_measured - part.num_on_base,
                num_measured2=part.num_measured,
                part_names=PART_NAMES[part.part],
                name=base.name,
            ),
            fix=msg("name the base that the LoRA was trained on"),
            level="warning",
        )
        for part in measured.parts
        if part.num_on_base < part.num_measured
    ]


def _form_problems(file: LoraFile) -> list[Problem]:
    """Warnings of modules that lack a tensor, and a note of tensors of unknown kind."""
    found: list[Problem] = []
    if file.num_incomplete:
        text = msg(
            "{num_incomplete} of {n} modules lack a tensor",
            num_incomplete=file.num_incomplete,
            n=len(file.modules),
        )
        found.append(Problem(text=text, fix=msg("download or save it again"), level="warning"))
    if file.other_tensors:
        shown = ", ".join(name[:60] for name in file.other_tensors[:3])
        text = msg(
            "{n} tensors belong to no known kind of network: {shown}",
            n=len(file.other_tensors),
            shown=shown,
        )
        found.append(Problem(text=text, level="note"))
    return found


def _to_json(
    file: LoraFile, measured: Measured | None, problems: Sequence[Problem]
) -> dict[str, Any]:
    parts = {part.part: part for part in measured.parts} if measured else {}
    return {
        "path": str(file.path),
        "num_bytes": file.num_bytes,
        "dtypes": dict(file.dtypes),
        "naming": file.naming,
        "kinds": list(file.kinds),
        "family": file.family,
        "family_from": file.family_from,
        "architecture": file.architecture,
        "ranks": list(file.ranks()),
        "alphas": list(file.alphas()),
        "conv_ranks": list(file.ranks(convolutions=True)),
        "conv_alphas": list(file.alphas(convolutions=True)),
        "parts": {
            part: {"num_modules": len(modules), **_numbers(parts.get(part))}
            for part, modules in file.parts.items()
        },
        "num_incomplete": file.num_incomplete,
        "other_tensors": list(file.other_tensors),
        "read_by": {each.program: each.why_not or True for each in read_by(file)},
        "trained_on": trained_on(file.metadata),
        "metadata": dict(file.metadata),
        "problems": [asdict(each) for each in problems],
    }


def _numbers(part: PartMeasure | None) -> dict[str, Any]:
    if part is None:
        return {}
    return {
        "num_unchanged": part.num_unchanged,
        "norm": part.norm if part.num_measured else None,
        "base_norm": part.base_norm,
        "ratio": part.ratio,
        "zero_share": part.zero_share,
        "tiny_share": part.tiny_share,
    }

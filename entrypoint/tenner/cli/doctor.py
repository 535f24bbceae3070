"""`tenner doctor`: whether this machine can train, each part with what was found and its fix."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from tenner.base.choice import MODELS_DIR, find_base
from tenner.core.errors import ExitCode, Problem, SettingsError
from tenner.core.secrets import child_environ
from tenner.core.sizes import size_words
from tenner.core.temporary_files import temporary_folder
from tenner.engines.sd_scripts.find import DIRECTORY_VARIABLE, Trainer, find, try_import
from tenner.families import FAMILY_NAMES
from tenner.hardware import Machine, disk_space, inspect_machine
from tenner.hardware.gpu import capability_text
from tenner.hardware.host import Host
from tenner.hardware.torch_build import trainer_build
from tenner.hardware.trial import LIBRARIES, TORCH, Trial, Tried, trainer_python
from tenner.settings import Settings
from tenner.settings.known_bases import KNOWN_BASES
from tenner.ui.plain_text import print_tables

Mark = Literal["ok", "warning", "error", "note"]

T = TypeVar("T")

WORD_SECONDS = 4.0
"""Seconds of waiting between two progress lines."""
LEAST_RAM_MIB = 8 * 1024
"""SDXL's checkpoint of 6.9 GB passes through it."""
LEAST_SHM_MIB = 64
"""Docker's default, and enough where latents are cached."""
LEAST_DISK_MIB = 5 * 1024
"""Of a run: checkpoints and two states of a few hundred MB, and samples."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One part of the machine."""

    name: str
    mark: Mark
    found: str
    fix: str = ""


def run_doctor(
    environ: Mapping[str, str], *, output_dir: Path, as_json: bool, base_model: str = ""
) -> ExitCode:
    """Look at everything and print it; MACHINE where this machine cannot train. Of a `base_model`
    that is elsewhere only the heads of its files are read."""
    look = partial(examine, environ, output_dir=output_dir, base_model=base_model)
    if not as_json:
        able = _print(look(say=_say))
    else:
        checks = tuple(look(say=lambda text: None))
        able = all(check.mark != "error" for check in checks)
        report: dict[str, Any] = {
            "can_train": able,
            "checks": [
                {"name": each.name, "mark": each.mark, "found": each.found, "fix": each.fix}
                for each in checks
            ],
        }
        print(json.dumps(report, ensure_ascii=False, indent=1))
    return ExitCode.DELIVERED if able else ExitCode.MACHINE


def examine(
    environ: Mapping[str, str],
    *,
    output_dir: Path,
    say: Callable[[str], None],
    base_model: str = "",
) -> Iterator[Check]:
    """Every check, in the order of a run, each as soon as it is known. Starts the trainer's Python,
    which takes seconds: `say` prints what is waited for."""
    python = trainer_python(environ)
    machine = _waiting(
        "the card and its driver",
        lambda: inspect_machine(environ, cuda=trainer_build(python)),
        say,
    )
    child_env = {**child_environ(environ), **machine.child_env}
    with Trial(python, LIBRARIES, child_env) as trial:
        yield from _card_checks(machine)
        yield from _host_checks(machine.host)
        yield from _disk_checks(environ, output_dir)
        yield from _base_checks(environ)
        if base_model:
            yield _waiting(
                f"the base model {base_model}", lambda: _named_base(base_model, environ), say
            )
        tried = _waiting(f"the trainer's torch ({python})", trial.finish, say)
    trainer = _waiting("sd-scripts", lambda: find(environ), say)
    has_sd_scripts = isinstance(trainer, Trainer)
    yield from _trial_checks(tried, machine, has_sd_scripts=has_sd_scripts)
    yield from _sd_scripts_checks(trainer, environ, say)


def _waiting(what: str, look: Callable[[], T], say: Callable[[str], None]) -> T:
    """The result of `look`, with a line before it and every few seconds while it lasts."""
    say(f"looking at {what}")
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(look)
        while not wait((found,), timeout=WORD_SECONDS).done:
            say(f"  still looking at {what}: {time.monotonic() - started:.0f} s")
        return found.result()


def _card_checks(machine: Machine) -> Iterator[Check]:
    for gpu in machine.chosen:
        memory = "memory unknown"
        if gpu.total_mib and gpu.free_mib is not None:
            memory = f"{gpu.free_mib} of {gpu.total_mib} MiB free"
        capability = capability_text(gpu.capability) if gpu.capability else "unknown"
        yield Check(name="card", mark="ok", found=f"{gpu.label}: {memory}, capability {capability}")
    for gpu in machine.gpus:
        if gpu not in machine.chosen:
            yield Check(name="card", mark="note", found=f"{gpu.label}: not used")
    if machine.chosen:
        yield Check(
            name="driver",
            mark="ok",
            found=f"{machine.driver or 'unknown'}, for {machine.cuda.label}",
        )
    for problem in machine.problems:
        yield _of(problem, "card")


def _host_checks(host: Host) -> Iterator[Check]:
    limited = " (limit of the container)" if host.cpus_limited else ""
    few = host.cpus < 2
    yield Check(
        name="CPU",
        mark="warning" if few else "ok",
        found=f"{host.cpus:g} cores{limited}",
        fix="a step waits for the CPU to launch it: take two cores or more" if few else "",
    )
    limited = " (limit of the container)" if host.ram_limited else ""
    short = host.free_ram_mib < LEAST_RAM_MIB
    yield Check(
        name="RAM",
        mark="warning" if short else "ok",
        found=f"{host.free_ram_mib} of {host.ram_mib} MiB free{limited}",
        fix="SDXL's checkpoint of 6.9 GB is read through it; SD 1.5 needs less" if short else "",
    )
    small = host.shm_mib < LEAST_SHM_MIB
    yield Check(
        name="/dev/shm",
        mark="warning" if small else "ok",
        found=f"{host.shm_mib} MiB free",
        fix="docker run --shm-size 2g; without cached latents images pass through it"
        if small
        else "",
    )


def _disk_checks(environ: Mapping[str, str], output_dir: Path) -> Iterator[Check]:
    folders = {"output": output_dir}
    if environ.get("TENNER_CACHE_DIR"):
        folders["cache"] = Path(environ["TENNER_CACHE_DIR"])
    for name, path in folders.items():
        space = disk_space(path)
        found = f"{path.absolute()}: {space.free_mib} of {space.total_mib} MiB free"
        if not space.is_writable or not space.total_mib:
            fix = "mount a folder there that this user may write to"
            yield Check(name=name, mark="error", found=f"{found}, not writable", fix=fix)
        elif space.free_mib < LEAST_DISK_MIB:
            fix = "free some, or mount a larger disk"
            yield Check(name=name, mark="warning", found=found, fix=fix)
        else:
            yield Check(name=name, mark="ok", found=found)


def _base_checks(environ: Mapping[str, str]) -> Iterator[Check]:
    folder = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    names = [base.name for base in KNOWN_BASES]
    here = [
        name
        for name in names
        if (folder / name).is_dir() or (folder / f"{name}.safetensors").is_file()
    ]
    found = f"{folder}: {', '.join(here) if here else 'none'}"
    fix = "" if here else "name a checkpoint as base_model, or use an image that has one"
    yield Check(name="base models", mark="ok" if here else "note", found=found, fix=fix)


def _named_base(name: str, environ: Mapping[str, str]) -> Check:
    """A base by its name, path or address."""
    try:
        with temporary_folder("base") as heads:
            base = find_base(
                Settings.model_validate({"base_model": name}),
                environ,
                on_stage=lambda stage, detail: None,
                on_bytes=None,
                heads_into=Path(heads),
            )
    except SettingsError as error:
        first = error.problems[0]
        return Check(name="base model", mark="error", found=first.text, fix=first.fix)
    found = f"{name}: {FAMILY_NAMES[base.family]}, {base.resolution} px"
    if base.num_bytes:
        found += f", {size_words(base.num_bytes)}"
    notes = [each for each in base.notices if each.level != "error"]
    return Check(
        name="base model",
        mark="warning" if any(each.level == "warning" for each in notes) else "ok",
        found="; ".join([found, *(str(each.text) for each in notes)]),
        fix="; ".join(str(each.fix) for each in notes if each.fix),
    )


def _trial_checks(tried: Tried, machine: Machine, *, has_sd_scripts: bool) -> Iterator[Check]:
    build = f"torch {tried.torch}, CUDA {tried.cuda or 'none'}" if tried.torch else "no torch"
    problem = tried.problem
    if problem is None:
        yield Check(name="trainer", mark="ok", found=f"{build}: computes on {tried.gpu}")
    elif machine.has_gpu or not tried.torch:
        yield _of(problem, "trainer")
    else:
        yield Check(name="trainer", mark="note", found=f"{build}: no card to try it on")
    stand_ins = {
        "xformers": "attention is computed by torch itself instead",
        "bitsandbytes": "the optimizer runs in 32 bits instead, and takes more memory",
    }
    for name, stand_in in stand_ins.items():
        error = tried.broken.get(name)
        if error is None and (TORCH not in tried.broken or tried.torch):
            yield Check(name=name, mark="ok", found="works")
        elif error is not None:
            unused = name == "xformers" and not has_sd_scripts
            fix = "the built-in trainer does not use it" if unused else stand_in
            yield Check(name=name, mark="note" if unused else "warning", found=error, fix=fix)


def _sd_scripts_checks(
    trainer: Trainer | Problem, environ: Mapping[str, str], say: Callable[[str], None]
) -> Iterator[Check]:
    if not isinstance(trainer, Trainer):
        mark: Mark = "warning" if environ.get(DIRECTORY_VARIABLE) else "note"
        found = f"{trainer.text}; the built-in trainer is used"
        yield Check(name="sd-scripts", mark=mark, found=found, fix=trainer.fix)
        return
    problem = _waiting(
        f"what sd-scripts imports ({trainer.directory})", lambda: try_import(trainer), say
    )
    if problem:
        yield Check(name="sd-scripts", mark="error", found=problem.text, fix=problem.fix)
        return
    yield Check(name="sd-scripts", mark="ok", found=f"{trainer.directory}, {trainer.commit or '?'}")
    for notice in trainer.notices:
        yield _of(notice, "sd-scripts")


def _of(problem: Problem, name: str) -> Check:
    return Check(name=name, mark=problem.level, found=problem.text, fix=problem.fix)


_STYLES: dict[Mark, str] = {"ok": "green", "warning": "yellow", "error": "bold red", "note": "cyan"}


_NAME_WIDTH = len("base models")
_MARK_WIDTH = len("warning")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(checks: Iterable[Check]) -> bool:
    """Print each check as it comes. Returns whether this machine can train."""
    from rich.table import Table
    from rich.text import Text

    able = True
    for check in checks:
        able = able and check.mark != "error"
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(width=_NAME_WIDTH, overflow="fold")
        table.add_column(width=_MARK_WIDTH)
        table.add_column(overflow="fold")
        found = Text(check.found)
        if check.fix:
            found.append(f"\n→ {check.fix}", style="dim")
        table.add_row(check.name, Text(check.mark, style=_STYLES[check.mark]), found)
        print_tables(table)
        sys.stdout.flush()
    print("this machine can train" if able else "this machine cannot train: see the errors above")
    return able

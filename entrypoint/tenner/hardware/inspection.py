"""The machine of a run, inspected once at its start: cards, driver, CPU, memory (`Machine`)."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tenner.core.errors import MachineError, Problem, errors_in
from tenner.core.messages import msg
from tenner.hardware.cards import card_named
from tenner.hardware.cuda import CUDA_12_1, CudaBuild, driver_problem, has_kernels, kernel_problem
from tenner.hardware.gpu import Capability, Gpu
from tenner.hardware.host import Host, inspect_host
from tenner.hardware.smi import GpuQuery, query_gpus
from tenner.hardware.visible import child_environment, choose_gpus, select_visible

BUSY_SHARE = 0.10
"""The share of a card's memory above which other programs' use is reported. A desktop takes about
5 %."""


_SHARES_MEMORY = re.compile(r"\b(GB10|Thor|Orin|Tegra|Jetson|Grace)\b", re.I)
"""NVIDIA chips whose GPU and CPU share their memory (DGX Spark, Jetson)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Cards, driver, host. Without a card `chosen` is empty and `problems` explains why."""

    gpus: tuple[Gpu, ...]
    """All cards of nvidia-smi."""
    chosen: tuple[Gpu, ...]
    """The cards to train on."""
    cuda: CudaBuild
    host: Host
    problems: tuple[Problem, ...] = ()
    child_env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables with which a process sees only the chosen cards."""

    @property
    def has_gpu(self) -> bool:
        return bool(self.chosen)

    @property
    def driver(self) -> str:
        return self.gpus[0].driver if self.gpus else ""

    @property
    def gpu_name(self) -> str:
        return self.chosen[0].name if self.chosen else ""

    @property
    def smallest(self) -> Gpu | None:
        """The chosen card with the least free memory, which limits the batch size."""
        known = [gpu for gpu in self.chosen if gpu.free_mib is not None]
        return min(known, key=lambda gpu: gpu.free_mib or 0) if known else None

    @property
    def free_mib(self) -> int | None:
        """Free memory of the smallest chosen card; `None` where any card hides it."""
        free = [gpu.free_mib for gpu in self.chosen]
        known = [each for each in free if each is not None]
        return min(known) if known and len(known) == len(free) else None

    @property
    def total_mib(self) -> int | None:
        totals = [gpu.total_mib for gpu in self.chosen if gpu.total_mib]
        return min(totals) if totals and len(totals) == len(self.chosen) else None

    @property
    def capability(self) -> Capability | None:
        """The lowest of the chosen cards: all run the same kernels."""
        known = [gpu.capability for gpu in self.chosen if gpu.capability]
        return min(known) if known else None

    def require_gpu(self) -> None:
        """Raise `MachineError` with every error found, for a run that needs the card."""
        if errors := errors_in(self.problems):
            raise MachineError(problems=errors)


def inspect_machine(
    env: Mapping[str, str] | None = None,
    *,
    num_gpus: int = 1,
    cuda: CudaBuild = CUDA_12_1,
    root: Path = Path("/"),
) -> Machine:
    """Query the driver and the kernel. `cuda` is the trainer's build.

    Never raises: problems, as a missing card, are in the result, and the caller decides on them.
    """
    env = os.environ if env is None else env
    return machine_of(query_gpus(env), env, inspect_host(root), num_gpus=num_gpus, cuda=cuda)


def machine_of(
    query: GpuQuery,
    env: Mapping[str, str],
    host: Host,
    *,
    num_gpus: int = 1,
    cuda: CudaBuild = CUDA_12_1,
) -> Machine:
    """`inspect_machine` for given answers. Pure."""
    if query.problem or not query.gpus:
        problems = (query.problem,) if query.problem else ()
        return Machine(gpus=(), chosen=(), cuda=cuda, host=host, problems=problems)
    gpus = tuple(_with_memory(_with_capability(gpu), host) for gpu in query.gpus)
    visible = select_visible(gpus, env)
    if visible.problem:
        problems = (visible.problem,)
        return Machine(gpus=gpus, chosen=(), cuda=cuda, host=host, problems=problems)
    chosen = choose_gpus(
        visible,
        num_gpus,
        is_usable=lambda gpu: gpu.capability is None or has_kernels(cuda, gpu.capability),
    )
    problems = _problems(chosen, visible.gpus, num_gpus, cuda)
    return Machine(
        gpus=gpus,
        chosen=chosen,
        cuda=cuda,
        host=host,
        problems=tuple(problems),
        child_env=child_environment(chosen),
    )


def _with_capability(gpu: Gpu) -> Gpu:
    """The capability by the card's name: old drivers do not report it."""
    if gpu.capability:
        return gpu
    card = card_named(gpu.name)
    return replace(gpu, capability=card.capability) if card else gpu


def _with_memory(gpu: Gpu, host: Host) -> Gpu:
    """The memory of a chip that shares the machine's, and reports none: the kernel's
    MemAvailable."""
    if gpu.total_mib or gpu.is_divided or not _SHARES_MEMORY.search(gpu.name):
        return gpu
    return replace(gpu, total_mib=host.ram_mib, free_mib=host.free_ram_mib)


def _problems(
    chosen: tuple[Gpu, ...], visible: tuple[Gpu, ...], num_gpus: int, cuda: CudaBuild
) -> list[Problem]:
    found = [driver_problem(chosen[0].driver, cuda)]
    for gpu in chosen:
        found += [kernel_problem(gpu, cuda), _memory_problem(gpu)]
    found += [_count_problem(chosen, num_gpus), _choice_note(chosen, visible)]
    return [problem for problem in found if problem]


def _memory_problem(gpu: Gpu) -> Problem | None:
    if not gpu.total_mib or gpu.free_mib is None:
        return Problem(
            text=msg(
                "{label} does not report how much memory it has: batch 1 with gradient"
                " checkpointing",
                label=gpu.label,
            ),
            fix=msg("set batch_size and gradient_checkpointing yourself if you know it is larger"),
            level="warning",
        )
    if gpu.free_mib >= gpu.total_mib * (1 - BUSY_SHARE):
        return None
    used = gpu.total_mib - gpu.free_mib
    return Problem(
        text=msg(
            "{label}: {used} of {total_mib} MiB are taken; sized for the {free_mib} MiB"
            " that are free",
            label=gpu.label,
            used=used,
            total_mib=gpu.total_mib,
            free_mib=gpu.free_mib,
        ),
        fix=msg(
            "end the other programs on this card (nvidia-smi lists them), or choose another card"
        ),
        level="warning",
    )


def _count_problem(chosen: tuple[Gpu, ...], num_gpus: int) -> Problem | None:
    if len(chosen) >= num_gpus:
        return None
    reason = (
        msg("a process sees one MIG slice only")
        if chosen[0].is_slice
        else msg("no more can be used here")
    )
    return Problem(
        text=msg(
            "num_processes = {num_gpus}, but there is {n} usable GPU: {reason}",
            num_gpus=num_gpus,
            n=len(chosen),
            reason=reason,
        ),
        fix=msg("set num_processes = {n}", n=len(chosen)),
    )


def _choice_note(chosen: tuple[Gpu, ...], visible: tuple[Gpu, ...]) -> Problem | None:
    if len(visible) <= len(chosen):
        return None
    used = ", ".join(gpu.label for gpu in chosen)
    return Problem(
        text=msg("{n} GPUs are here; this run uses {used}", n=len(visible), used=used),
        fix=msg("choose another with CUDA_VISIBLE_DEVICES, or use several with num_processes"),
        level="note",
    )

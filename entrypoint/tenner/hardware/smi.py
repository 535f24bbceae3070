"""The cards of `nvidia-smi`, or the problem where it finds none.

The fields are read by `--query-gpu`, one line for each card, and MIG slices by `-q -x`. Parsers
take text and return values; only `query_gpus` runs the program.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.secrets import child_environ
from tenner.hardware.gpu import Gpu
from tenner.hardware.smi_output import (
    FIELDS,
    parse_gpus,
    parse_slice_uuids,
    parse_smi_xml,
    with_slices,
)

TIME_LIMIT_SECONDS = 45.0

_DEVICE = Path("/dev/nvidiactl")
_UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field to query')


@dataclass(frozen=True, kw_only=True)
class SmiAnswer:
    """Exit code and output of a call of nvidia-smi."""

    returncode: int
    stdout: str
    stderr: str = ""

    @property
    def text(self) -> str:
        return f"{self.stdout}\n{self.stderr}".strip()


@dataclass(frozen=True, kw_only=True)
class GpuQuery:
    """The cards found, or the problem why there are none."""

    gpus: tuple[Gpu, ...] = ()
    problem: Problem | None = None


def failure_of(answer: SmiAnswer, *, in_container: bool) -> Problem | None:
    """The problem where nvidia-smi ran but listed no card."""
    text = answer.text
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if "Driver/library version mismatch" in text:
        return Problem(
            text=msg(
                "the host's driver was changed under a running system: nvidia-smi prints {line}",
                line=line,
            ),
            fix=msg("this is the host's fault: reboot it, or rent another machine"),
        )
    if "Failed to initialize NVML" in text or "has failed because it couldn't communicate" in text:
        return Problem(
            text=msg("the host has lost its GPU: nvidia-smi prints {line}", line=line),
            fix=msg("restart the container; if it happens again, rent another machine")
            if in_container
            else msg("restart this machine; a new driver is loaded at its start"),
        )
    if "Unable to determine the device handle" in text or "GPU is lost" in text:
        return Problem(
            text=msg("a GPU of this host has failed: nvidia-smi prints {line}", line=line),
            fix=msg("rent another machine; the host's card has to be reset"),
        )
    if "No devices were found" in text or (answer.returncode == 0 and not text):
        if not in_container:
            return Problem(
                text=msg("nvidia-smi runs, but finds no GPU in this machine"),
                fix=msg("rent a machine with a GPU, or add --device cpu to train on the CPU"),
            )
        return Problem(
            text=msg("nvidia-smi runs, but the host gives this container no GPU"),
            fix=msg("rent a machine with a GPU; locally start with docker run --gpus all"),
        )
    return Problem(
        text=msg(
            "nvidia-smi ended with code {returncode} and named no GPU: {line}",
            returncode=answer.returncode,
            line=line[:200] or msg("it printed nothing"),
        ),
        fix=msg("run nvidia-smi by hand on this machine; if it fails too, rent another one"),
    )


def query_gpus(
    env: Mapping[str, str] | None = None, *, time_limit_s: float = TIME_LIMIT_SECONDS
) -> GpuQuery:
    """Run nvidia-smi (found on the `PATH` of `env`). Never raises; a problem is returned."""
    env = os.environ if env is None else env
    program, problem = _find_program(env)
    if problem or not program:
        return GpuQuery(problem=problem)
    answer, fields = _query_cards(program, env, time_limit_s)
    if isinstance(answer, Problem):  # a first call may time out while it wakes up the cards
        answer, fields = _query_cards(program, env, time_limit_s)
    if isinstance(answer, Problem):
        return GpuQuery(problem=answer)
    gpus = parse_gpus(answer.stdout, fields)
    if not gpus:
        return GpuQuery(problem=failure_of(answer, in_container=_in_container()))
    return GpuQuery(gpus=_explain_failure(program, gpus, env, time_limit_s))


def _query_cards(
    program: str, env: Mapping[str, str], time_limit_s: float
) -> tuple[SmiAnswer | Problem, tuple[str, ...]]:
    """Query the cards, again without a field that an old driver refuses the query for."""
    fields = FIELDS
    while True:
        query = f"--query-gpu={','.join(fields)}"
        answer = _run(program, [query, "--format=csv,noheader,nounits"], env, time_limit_s)
        if isinstance(answer, Problem):
            return answer, fields
        refused = set(_UNKNOWN_FIELD.findall(answer.text)) & set(fields)
        if not refused or refused & set(FIELDS[:3]):
            return answer, fields
        fields = tuple(field for field in fields if field not in refused)


def _explain_failure(
    program: str, gpus: tuple[Gpu, ...], env: Mapping[str, str], time_limit_s: float
) -> tuple[Gpu, ...]:
    """Read the XML where a card is divided or hides its memory."""
    if all(gpu.total_mib and not gpu.is_divided for gpu in gpus):
        return gpus
    answer = _run(program, ["-q", "-x"], env, time_limit_s)
    detailed = () if isinstance(answer, Problem) else parse_smi_xml(answer.stdout)
    uuids: dict[tuple[int, int], str] = {}
    if any(gpu.is_slice and not gpu.uuid.startswith("MIG-") for gpu in detailed):
        listed = _run(program, ["-L"], env, time_limit_s)
        uuids = {} if isinstance(listed, Problem) else parse_slice_uuids(listed.stdout)
    return with_slices(gpus, detailed, uuids)


def _run(
    program: str, arguments: Sequence[str], env: Mapping[str, str], time_limit_s: float
) -> SmiAnswer | Problem:
    """Run nvidia-smi once. Where a hung driver makes it unkillable, it is not waited for."""
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environ(env),
            start_new_session=True,
        )
    except OSError as error:
        return Problem(
            text=msg(
                "{program} cannot be started: {strerror}",
                program=program,
                strerror=error.strerror or error,
            ),
            fix=msg("reinstall the NVIDIA driver, or rent another machine"),
        )
    try:
        stdout, stderr = process.communicate(timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        _abandon(process)
        return Problem(
            text=msg(
                "nvidia-smi gave no answer within {time_limit_s} s",
                time_limit_s=f"{time_limit_s:g}",
            ),
            fix=msg("the host's driver hangs: reboot it, or rent another machine"),
        )
    return SmiAnswer(
        returncode=process.returncode,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
    )


def _abandon(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        os.killpg(process.pid, 9)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def is_without_driver(env: Mapping[str, str]) -> bool:
    """Whether NVIDIA's driver is not here at all, as on a laptop, not even one that fails."""
    return not _programs(env) and not _DEVICE.exists()


def _programs(env: Mapping[str, str]) -> list[Path]:
    """Each nvidia-smi on the PATH, and WSL's, also one that cannot be run."""
    programs = [Path(folder) / "nvidia-smi" for folder in _folders(env)]
    return [each for each in programs if os.path.isfile(each)]  # noqa: PTH113 it never raises


def _folders(env: Mapping[str, str]) -> list[str]:
    folders = [*env.get("PATH", os.defpath).split(os.pathsep), "/usr/lib/wsl/lib"]
    return [folder for folder in folders if folder]


def _find_program(env: Mapping[str, str]) -> tuple[str | None, Problem | None]:
    if program := shutil.which("nvidia-smi", path=os.pathsep.join(_folders(env))):
        return program, None
    if blocked := _programs(env):
        return None, Problem(
            text=msg("{blocked} is there, but cannot be run", blocked=blocked[0]),
            fix=msg("chmod +x {blocked}, or reinstall the NVIDIA driver", blocked=blocked[0]),
        )
    return None, missing_program(in_container=_in_container(), has_device=_DEVICE.exists(), env=env)


def _in_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def missing_program(*, in_container: bool, has_device: bool, env: Mapping[str, str]) -> Problem:
    """The problem where there is no nvidia-smi."""
    if has_device:
        return Problem(
            text=msg("there is a GPU device, but no nvidia-smi to query it"),
            fix=msg("start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
        )
    hidden = env.get("NVIDIA_VISIBLE_DEVICES", "")
    if hidden in ("void", "none"):
        return Problem(
            text=msg("no GPU here: NVIDIA_VISIBLE_DEVICES={hidden} hides them all", hidden=hidden),
            fix=msg("set NVIDIA_VISIBLE_DEVICES=all, or start with docker run --gpus all"),
        )
    if in_container:
        return Problem(
            text=msg("no GPU here: the container was started without one (there is no nvidia-smi)"),
            fix=msg(
                "start it with docker run --gpus all; the host needs the NVIDIA driver and"
                " the NVIDIA Container Toolkit"
            ),
        )
    return Problem(
        text=msg("no GPU here: there is no nvidia-smi on the PATH"),
        fix=msg(
            "install the NVIDIA driver, rent a machine with a GPU, or add --device cpu to"
            " train on the CPU"
        ),
    )

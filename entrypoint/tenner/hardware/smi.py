"""Which cards `nvidia-smi` sees, and what is wrong where it sees none.

Its table for humans is never read: `--query-gpu` gives one line a card, `-q -x` knows the MIG
slices. Parsing takes text and gives values; only `query_gpus` runs the program.
"""

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.secrets import child_environ
from tenner.hardware.gpu import Capability, Gpu

FIELDS = (
    "name",
    "memory.total",
    "driver_version",
    "compute_cap",
    "memory.free",
    "index",
    "uuid",
    "mig.mode.current",
)
"""What is queried of each card. Drivers before 510 do not know `compute_cap`."""

TIME_LIMIT_SECONDS = 45.0

_DEVICE = Path("/dev/nvidiactl")
_DRIVER = re.compile(r"\d{3,4}\.\d{1,4}(\.\d{1,4})?")
_CAPABILITY = re.compile(r"(\d{1,2})\.(\d)")
_UNKNOWN_FIELD = re.compile(r'Field "([^"]+)" is not a valid field to query')
_NOT_A_NAME = re.compile(r"fail|error|unable|no devices|mismatch|not a valid|^\[", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class SmiAnswer:
    """What one call of nvidia-smi gave."""

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


def parse_gpus(smi_csv: str, fields: Sequence[str] = FIELDS) -> tuple[Gpu, ...]:
    """One `Gpu` for each line of `--query-gpu=<fields> --format=csv,noheader,nounits`.

    Lines that are not a card (errors, blanks) give none. A value in brackets or `N/A` is unknown.
    Columns missing at the end of a line are unknown too.
    """
    gpus: list[Gpu] = []
    for line in smi_csv.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        gpu = _gpu_of(dict(zip(fields, cells, strict=False)), position=len(gpus))
        if gpu and len(cells) <= len(fields):
            gpus.append(gpu)
    return tuple(gpus)


def _gpu_of(row: Mapping[str, str], *, position: int) -> Gpu | None:
    name, memory = row.get("name", ""), row.get("memory.total", "")
    driver = row.get("driver_version", "")
    is_name = bool(re.search(r"[A-Za-z]", name)) and not _NOT_A_NAME.search(name)
    is_memory = _mib(memory) is not None or _is_unknown(memory)
    driver = "" if _is_unknown(driver) and "driver_version" in row else driver
    if not (is_name and is_memory and (not driver or _DRIVER.fullmatch(driver))):
        return None
    index = row.get("index", "")
    uuid = row.get("uuid", "")
    return Gpu(
        index=int(index) if re.fullmatch(r"[0-9]{1,3}", index) else position,
        name=name,
        driver=driver,
        uuid=uuid if uuid.startswith("GPU-") else "",
        total_mib=_mib(memory),
        free_mib=_mib(row.get("memory.free", ""), zero_is_known=True),
        capability=_capability(row.get("compute_cap", "")),
        is_divided=row.get("mig.mode.current", "") == "Enabled",
    )


def _is_unknown(cell: str) -> bool:
    return cell.startswith("[") or cell in ("N/A", "")


def _mib(text: str | None, *, zero_is_known: bool = False) -> int | None:
    """`24564` or `4864 MiB` as 24564, 4864; anything else is unknown."""
    match = re.fullmatch(r"([0-9]{1,9})(\.0+)?( MiB)?", (text or "").strip())
    value = int(match[1]) if match else 0
    return value if value or (match and zero_is_known) else None


def _capability(cell: str) -> Capability | None:
    match = _CAPABILITY.fullmatch(cell)
    if not match or not match[1].isascii() or not match[2].isascii():
        return None
    return (int(match[1]), int(match[2]))


def parse_smi_xml(smi_xml: str) -> tuple[Gpu, ...]:
    """The cards and MIG slices of `nvidia-smi -q -x`; none where the text is not its XML.

    A card with slices is given as its slices, each with the memory that is its own.
    """
    try:
        root = ET.fromstring(smi_xml.strip())
    except (ET.ParseError, ValueError, RecursionError):
        return ()
    driver = (root.findtext("driver_version") or "").strip()
    if root.tag != "nvidia_smi_log" or not _DRIVER.fullmatch(driver):
        return ()
    gpus: list[Gpu] = []
    for index, element in enumerate(root.iter("gpu")):
        gpus += _gpus_of_element(element, index=index, driver=driver)
    return tuple(gpus)


def _gpus_of_element(element: ET.Element, *, index: int, driver: str) -> list[Gpu]:
    uuid = (element.findtext("uuid") or "").strip()
    whole = Gpu(
        index=index,
        name=(element.findtext("product_name") or "").strip() or "NVIDIA GPU",
        driver=driver,
        uuid=uuid if uuid.startswith("GPU-") else "",
        total_mib=_mib(element.findtext("fb_memory_usage/total")),
        free_mib=_mib(element.findtext("fb_memory_usage/free"), zero_is_known=True),
        is_divided=(element.findtext("mig_mode/current_mig") or "").strip() == "Enabled",
    )
    slices = [
        replace(
            whole,
            uuid=(each.findtext("uuid") or "").strip(),
            total_mib=_mib(each.findtext("fb_memory_usage/total")),
            free_mib=_mib(each.findtext("fb_memory_usage/free"), zero_is_known=True),
            slice_index=position,
            is_divided=True,
        )
        for position, each in enumerate(element.iter("mig_device"))
    ]
    return slices or [whole]


def parse_slice_uuids(smi_list: str) -> dict[tuple[int, int], str]:
    """The UUID of each MIG slice in `nvidia-smi -L`, by card and slice number."""
    uuids: dict[tuple[int, int], str] = {}
    card = -1
    for line in smi_list.splitlines():
        if match := re.match(r"GPU ([0-9]{1,3}):", line):
            card = int(match[1])
        elif match := re.match(r"\s+MIG .*Device\s+([0-9]{1,3}): \(UUID: (MIG-[^)\s]+)\)", line):
            uuids[card, int(match[1])] = match[2]
    return uuids


def with_slices(
    gpus: Sequence[Gpu], detailed: Sequence[Gpu], slice_uuids: Mapping[tuple[int, int], str]
) -> tuple[Gpu, ...]:
    """`gpus` with what the XML knows better: slices, and memory that the query did not give.

    Cards are matched by UUID where both know it, else by their position in the list. A card that is
    divided and shows no slice has no memory figure: the whole card's memory is not available.
    """
    result: list[Gpu] = []
    for gpu in gpus:
        same = [each for each in detailed if each.index == gpu.index]
        by_uuid = [each for each in detailed if gpu.uuid and each.uuid == gpu.uuid]
        for each in by_uuid or same:
            hidden = each.is_divided and not each.is_slice
            total = each.total_mib or (None if each.is_slice else gpu.total_mib)
            free = each.free_mib if each.free_mib is not None else gpu.free_mib
            result.append(
                replace(
                    gpu,
                    uuid=_slice_uuid(each, slice_uuids) if each.is_slice else gpu.uuid,
                    total_mib=None if hidden else total,
                    free_mib=None if hidden or (each.is_slice and not total) else free,
                    slice_index=each.slice_index,
                    is_divided=gpu.is_divided or each.is_divided,
                )
            )
        if not (by_uuid or same):
            unsure = gpu.is_divided
            result.append(replace(gpu, total_mib=None, free_mib=None) if unsure else gpu)
    return tuple(result)


def _slice_uuid(gpu: Gpu, slice_uuids: Mapping[tuple[int, int], str]) -> str:
    if gpu.uuid.startswith("MIG-"):
        return gpu.uuid
    return slice_uuids.get((gpu.index, gpu.slice_index or 0), "")


def failure_of(answer: SmiAnswer, *, in_container: bool) -> Problem | None:
    """What is wrong, where nvidia-smi ran but listed no card."""
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
    if isinstance(answer, Problem):  # the first call wakes cards that sleep, the second finds them
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
    """One call. A driver that hangs may not be killable: then it is left behind, not waited for."""
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
    """Why there may be no nvidia-smi at all."""
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

"""What nvidia-smi prints, as values: cards in CSV, cards and MIG slices in XML, slices' UUIDs.

Pure: text in, `Gpu` out. What is unknown is None; lines of errors are no cards.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace

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

_DRIVER = re.compile(r"\d{3,4}\.\d{1,4}(\.\d{1,4})?")
_CAPABILITY = re.compile(r"(\d{1,2})\.(\d)")
_NOT_A_NAME = re.compile(r"fail|error|unable|no devices|mismatch|not a valid|^\[", re.IGNORECASE)


def parse_gpus(smi_csv: str, fields: Sequence[str] = FIELDS) -> tuple[Gpu, ...]:
    """One `Gpu` for each line of `--query-gpu=<fields> --format=csv,noheader,nounits`.

    Other lines (errors, blanks) are ignored. A value in brackets or `N/A` is unknown (None), and so
    are missing columns at the end of a line.
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

    A card with slices is returned as its slices, each with its own memory.
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
    """`gpus` with the slices of the XML, and the memory that the query lacks.

    Cards are matched by UUID where both have it, else by their position in the list. A divided card
    without slices has no memory: that of the whole card cannot be used.
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

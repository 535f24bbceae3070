"""What this machine can do: cards, driver, kernels, CPU, RAM, shared memory, disk."""

from tenner.hardware.cuda import CUDA_12_1, CudaBuild, known_build
from tenner.hardware.gpu import Capability, Gpu
from tenner.hardware.host import DiskRoom, Host, disk_room
from tenner.hardware.inspection import Machine, inspect_machine
from tenner.hardware.smi import parse_gpus, parse_smi_xml, query_gpus

__all__ = [
    "CUDA_12_1",
    "Capability",
    "CudaBuild",
    "DiskRoom",
    "Gpu",
    "Host",
    "Machine",
    "disk_room",
    "inspect_machine",
    "known_build",
    "parse_gpus",
    "parse_smi_xml",
    "query_gpus",
]

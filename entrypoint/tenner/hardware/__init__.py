"""What this machine can do: cards, driver, kernels, CPU, RAM, shared memory, disk."""

from tenner.hardware.cuda import CUDA_12_1, CudaBuild, known_build
from tenner.hardware.gpu import Capability, Gpu
from tenner.hardware.host import DiskSpace, Host, disk_space
from tenner.hardware.inspection import Machine, inspect_machine
from tenner.hardware.smi import query_gpus
from tenner.hardware.smi_output import parse_gpus, parse_smi_xml

__all__ = [
    "CUDA_12_1",
    "Capability",
    "CudaBuild",
    "DiskSpace",
    "Gpu",
    "Host",
    "Machine",
    "disk_space",
    "inspect_machine",
    "known_build",
    "parse_gpus",
    "parse_smi_xml",
    "query_gpus",
]

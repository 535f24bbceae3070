"""Modules named torch, xformers and bitsandbytes that behave as a test sets.

They stand on PYTHONPATH before the real ones and are enough for the trial of a card: they compute
nothing.
"""

from pathlib import Path

TORCH = """
import os
float16 = "float16"
__version__ = "2.4.1"
class version:
    cuda = {cuda!r}
class _Sum:
    def __init__(self, value): self.value = value
    def sum(self): return self.value
class _Matrix:
    def __matmul__(self, other): return _Sum(16.0 ** 3)
class cuda:
    @staticmethod
    def get_arch_list(): return ["sm_80", "sm_86", "sm_90"]
    @staticmethod
    def init():
        if {fault!r}: raise RuntimeError({fault!r})
    @staticmethod
    def synchronize(): pass
    @staticmethod
    def get_device_name(index): return "NVIDIA GeForce RTX 4090"
    @staticmethod
    def device_count(): return len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))
    @staticmethod
    def is_available(): return False
def ones(*shape, **options): return _Matrix()
"""


def install_torch(
    folder: Path,
    *,
    cuda: str | None = "12.1",
    fault: str = "",
    xformers: str = "",
    bitsandbytes: str = "",
) -> dict[str, str]:
    """Put the modules into `folder`; the last three are code that `import` runs.

    Returns what the environment needs so that they are found.
    """
    for name, text in {
        "torch": TORCH.format(cuda=cuda, fault=fault),
        "xformers": xformers,
        "xformers/ops": "",
        "bitsandbytes": bitsandbytes,
    }.items():
        location = folder / name / "__init__.py"
        location.parent.mkdir(parents=True, exist_ok=True)
        location.write_text(text)
    return {"PYTHONPATH": str(folder)}

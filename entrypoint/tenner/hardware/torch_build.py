"""The CUDA version of the trainer's PyTorch, read from its files: importing it takes seconds."""

import re
import sysconfig
from pathlib import Path

from tenner.hardware.cuda import CUDA_12_1, CudaBuild, known_build

_VERSION = re.compile(r"^__version__\s*=\s*'([^']+)'", re.MULTILINE)
_CUDA = re.compile(r"^cuda\b[^=]*=\s*'(\d+)\.(\d+)'", re.MULTILINE)


def trainer_build(python: Path) -> CudaBuild:
    """The build in `python`'s environment.

    CUDA 12.1, the image's own, where there is no torch, one without CUDA, or a build whose
    architectures are not known.
    """
    for file in _version_files(python):
        try:
            text = file.read_text(encoding="utf-8")
        except OSError:
            continue
        version, cuda = _VERSION.search(text), _CUDA.search(text)
        if version and cuda:
            number = (int(cuda[1]), int(cuda[2]))
            return known_build(number, version[1].split("+")[0]) or CUDA_12_1
    return CUDA_12_1


def _version_files(python: Path) -> list[Path]:
    """The folder of an environment that has `torch/version.py`: beside its `bin`, or where this
    one's is."""
    root = python.parent.parent
    found = sorted(root.glob("lib*/python3*/site-packages/torch/version.py"))
    own = Path(sysconfig.get_path("purelib"))
    return found if found or not own.is_relative_to(root) else [own / "torch" / "version.py"]

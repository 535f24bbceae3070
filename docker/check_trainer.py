"""Fail the image's build where the trainer's environment is not the one that was locked.

    python check_trainer.py LOCK CUDA

Every part is imported, every version compared with the lock (so that no later step changed torch),
and torch must carry the CUDA that the image's tag names.
"""

import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

MODULES = (
    *("torch", "torchvision", "xformers", "xformers.ops", "bitsandbytes", "triton", "accelerate"),
    *("diffusers", "transformers", "peft", "safetensors.torch", "cv2", "PIL", "numpy", "toml"),
    *("prodigyopt", "lion_pytorch", "schedulefree", "prodigyplus", "pytorch_optimizer"),
    *("tensorboard", "einops", "ftfy", "imagesize", "voluptuous", "sentencepiece"),
)


def locked(text: str) -> dict[str, str]:
    """Version by package name, of a requirements file with `name==version` lines."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", text, re.MULTILINE))


def main(lock: str, cuda: str) -> None:
    """Check, and print what was found. Raises SystemExit with all that is wrong."""
    wrong: list[str] = []
    for name, version in locked(Path(lock).read_text(encoding="utf-8")).items():
        found = importlib.metadata.version(name)
        if found.split("+")[0] != version:
            wrong.append(f"{name} is {found}, locked is {version}")
    for module in MODULES:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever a broken wheel raises
            wrong.append(f"{module} does not import: {error}")
    torch = importlib.import_module("torch")
    if torch.version.cuda.replace(".", "") != cuda.removeprefix("cu"):
        wrong.append(f"torch {torch.__version__} carries CUDA {torch.version.cuda}, not {cuda}")
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"torch {torch.__version__} with CUDA {torch.version.cuda}; {len(MODULES)} parts import")


if __name__ == "__main__":
    main(*sys.argv[1:])

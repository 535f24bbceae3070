"""Packages for a machine without a network: a folder of wheels, and what of it is missing there."""

import base64
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

MOST_BYTES = 60 * 2**20
LIST = Path(__file__).with_name("packages.txt")
_NVIDIA = "libbitsandbytes_cuda"
_LANGUAGES = ("root", "global", "en", "ar")


def packages() -> dict[str, str]:
    """The requirement for pip, by the name of the module."""
    lines = (line.split() for line in LIST.read_text(encoding="utf-8").splitlines())
    return {words[0]: words[1] for words in lines if words and not words[0].startswith("#")}


def install_missing(wheels: Path | None, into: Path) -> list[str]:
    """Install from `wheels` what this Python lacks, without its dependencies; the names.

    `into` comes onto the path. Raises SystemExit where something is missing that cannot be had.
    """
    if into.is_dir():
        sys.path.append(str(into))
    missing = [name for module, name in packages().items() if not _is_here(module)]
    if not missing:
        return []
    if wheels is None:
        sys.exit(f"not installed: {', '.join(missing)}; give --wheels DIR")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--find-links", str(wheels), "--target", str(into), "--upgrade", *missing]
    subprocess.run(command, check=True)
    sys.path.append(str(into))
    importlib.invalidate_caches()
    return missing


def _is_here(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def fill_folder(folder: Path, *, python: str, cuda: str) -> int:
    """Download the wheels for x86-64 Linux, of bitsandbytes with its one library for `cuda`; their
    bytes. Raises SystemExit where they are more than 60 MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--python-version", python, "--dest", str(folder)]
    for platform in ("manylinux2014_x86_64", "manylinux_2_28_x86_64", "manylinux_2_24_x86_64"):
        command += ["--platform", platform]
    subprocess.run([*command, *packages().values()], check=True)
    for wheel in folder.glob("bitsandbytes-*.whl"):
        keep_one_library(wheel, cuda)
    for wheel in folder.glob("babel-*.whl"):
        keep_files(wheel, lambda path: path.suffix != ".dat" or path.stem in _LANGUAGES)
    for wheel in folder.glob("numpy-*.whl"):
        keep_files(wheel, lambda path: "tests" not in path.parts)
    num_bytes = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    if num_bytes > MOST_BYTES:
        sys.exit(f"{num_bytes / 2**20:.1f} MiB of wheels are more than {MOST_BYTES // 2**20}")
    return num_bytes


def keep_one_library(wheel: Path, cuda: str) -> None:
    """Write bitsandbytes' wheel anew with the CPU's library and that for `cuda` alone."""
    libraries = {"libbitsandbytes_cpu.so", f"{_NVIDIA}{cuda}.so"}
    with zipfile.ZipFile(wheel) as file:
        if not any(name.endswith(f"{_NVIDIA}{cuda}.so") for name in file.namelist()):
            sys.exit(f"{wheel.name} has no library for CUDA {cuda}")
    keep_files(wheel, lambda path: path.suffix != ".so" or path.name in libraries)


def keep_files(wheel: Path, is_kept: Callable[[PurePosixPath], bool]) -> None:
    """Write a wheel anew with some of its files, and a record of them."""
    made = wheel.with_suffix(".part")
    record: list[str] = []
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        (record_name,) = (name for name in old.namelist() if name.endswith(".dist-info/RECORD"))
        for name in old.namelist():
            if name == record_name or not is_kept(PurePosixPath(name)):
                continue
            content = old.read(name)
            new.writestr(name, content)
            record.append(f"{name},sha256={_digest(content)},{len(content)}")
        new.writestr(record_name, "\n".join([*record, f"{record_name},,"]) + "\n")
    shutil.move(made, wheel)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

"""What an error of the trainer means: whose fault it is, and what to do about it."""

import re
from dataclasses import dataclass

from tenner.core.events import Failed, FailureKind
from tenner.core.memory_errors import is_out_of_memory
from tenner.core.messages import msg

_LESS_MEMORY = msg(
    "a smaller batch_size, gradient_checkpointing = true, or a card with more memory"
)


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A pattern in an error's line, the kind of failure it means, and the fix.

    `text` replaces the line where that is cut or unclear.
    """

    pattern: re.Pattern[str]
    kind: FailureKind
    fix: str
    text: str = ""


def known_failure(line: str) -> Failed | None:
    """The failure that `line` reports, where it matches a known pattern."""
    if is_out_of_memory(line):
        return Failed(kind="oom", text=line.strip(), fix=_LESS_MEMORY)
    for sign in SIGNS:
        if sign.pattern.search(line):
            return Failed(kind=sign.kind, text=sign.text or line.strip(), fix=sign.fix)
    return None


def failure_of_exception(line: str) -> Failed | None:
    """The failure in the last line of a traceback; None where `line` is not one."""
    if not re.match(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:: |$)", line):
        return None
    known = known_failure(line)
    return known or Failed(
        kind="other", text=line.strip(), fix=msg("the whole traceback is in the log")
    )


def _sign(pattern: str, kind: FailureKind, fix: str, text: str = "") -> Sign:
    return Sign(pattern=re.compile(pattern), kind=kind, fix=fix, text=text)


SIGNS = (
    _sign(
        r"NaN detected in (latents|text encoder outputs)",
        "nan",
        msg("set no_half_vae = true; if it stays, the named image is broken"),
    ),
    _sign(
        r"No data found\.",
        "no_data",
        msg("put images in folders named like 10_concept, or set dataset = FOLDER"),
        text=msg("the trainer found no images"),
    ),
    _sign(
        r"No space left on device|Errno (28|122|30|5)\b|Disk quota exceeded|StorageFull"
        r"|Read-only file system|PytorchStreamWriter failed writing",
        "disk",
        msg("free disk space, or rent a machine with more of it"),
    ),
    _sign(
        r"model is not found as a file or in Hugging Face|Error no file named .*(config|weights)"
        r"|SafetensorError|Error\(s\) in loading state_dict"
        r"|does not appear to have a file named|Unable to load weights"
        r"|is neither a valid local path nor a valid repo id",
        "base_model",
        msg("check base_model: a whole model of the right family (SD 1.x, 2.x or SDXL)"),
    ),
    _sign(
        r"Bus error|out of shared memory|unable to (open|write).*shared memory|/torch_\d+_\d+",
        "host_memory",
        msg("start the container with --ipc=host or --shm-size=2g"),
    ),
    _sign(
        r"DataLoader worker \(pid.*(exited unexpectedly|killed by signal: Killed)",
        "host_memory",
        msg("give the container more memory, or set max_data_loader_n_workers = 0"),
    ),
    _sign(
        r"no kernel image is available|CUDA driver version is insufficient"
        r"|not compatible with the current PyTorch installation",
        "host",
        msg("this card needs another image: see the card table for the tag that fits"),
    ),
    _sign(
        r"NCCL (error|WARN)|ncclSystemError|ncclUnhandledCudaError"
        r"|Watchdog caught collective operation timeout",
        "host",
        msg(
            "the cards cannot talk to each other here: set num_processes = 1, or rent another host"
        ),
    ),
    _sign(
        r"CUDA error: |CUDNN_STATUS_|uncorrectable ECC error|Unable to determine the device handle"
        r"|Failed to initialize NVML|CUDA unknown error|CUDA-capable device",
        "host",
        msg(
            "the host's GPU failed: rent another machine; the run resumes from its last state there"
        ),
    ),
)
"""Patterns in the order they are tried. Wording is that of torch 2.4, safetensors and diffusers."""

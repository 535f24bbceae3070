"""Which errors mean that a card, or the machine, has no memory left.

The allocator names it. The libraries below it often do not: cuDNN finds no algorithm whose
workspace fits, cuBLAS and cuDNN cannot make their handles, NCCL cannot allocate its buffers. The
words are those of torch 2.4 to 2.13 (`aten/src/ATen/cudnn`, `c10/cuda`, `torch/csrc/distributed`).
A handle can also fail for a broken driver; then the smallest step fails in the same way, and the
run ends.
"""

import re

_WORDS = re.compile(
    r"OutOfMemoryError|(CUDA|HIP)( error:)? out of memory|DefaultCPUAllocator: (can't|not enough)"
    r"|unable to find an engine to execute this computation"
    r"|unable to find a valid cuDNN algorithm"
    r"|(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_(NOT_INITIALIZED|ALLOC_FAILED)"
    r"|CUDNN_STATUS_INTERNAL_ERROR_(DEVICE|HOST)_ALLOCATION_FAILED"
    r"|Failed to CUDA (host )?(m|c)?alloc|Cuda failure (2\b|'out of memory')",
    re.IGNORECASE,
)


def is_out_of_memory(text: str) -> bool:
    """Whether an error's text, or any line of a log, is of memory that ran out."""
    return _WORDS.search(text) is not None

"""Errors that mean a card's memory ran out, in the words of torch and the libraries below it."""

import pytest

from tenner.core.memory_errors import is_out_of_memory
from tenner.engines.native.train import _is_out_of_memory
from tenner.engines.sd_scripts.failures import known_failure

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 78.00 MiB. GPU 0 has a total capacity of 23.6 GiB",
    "CUDA error: out of memory",
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    (
        "NCCL error in: ../ProcessGroupNCCL.cpp:2395, unhandled cuda error, NCCL version 2.20.5\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\n"
        "Last error:\nFailed to CUDA calloc async 608 bytes"
    ),
    (
        "ncclUnhandledCudaError: Call to CUDA function failed.\n"
        "Last error:\nCuda failure 'out of memory'"
    ),
    "[DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes.",
)
OTHERS = (
    "CUDA error: no kernel image is available for execution on the device",
    "CUDA error: an illegal memory access was encountered",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    "NCCL error in: ProcessGroupNCCL.cpp:1970, remote process exited or there was a network error",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
)


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_memory_that_ran_out_is_recognised_with_either_trainer(text: str) -> None:
    assert is_out_of_memory(text)
    assert _is_out_of_memory(RuntimeError(text))
    last = text.splitlines()[-1]
    found = known_failure(f"RuntimeError: {last}")
    assert found is not None
    assert found.kind == "oom"


@pytest.mark.parametrize("text", OTHERS)
def test_other_faults_of_a_card_are_not(text: str) -> None:
    assert not is_out_of_memory(text)
    assert not _is_out_of_memory(RuntimeError(text))
    found = known_failure(f"RuntimeError: {text}")
    assert found is None or found.kind != "oom"

"""A trainer's word is not enough: its file must be whole and finite."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tenner.core.errors import Problem
from tenner.core.weights import FORMATS, Weights, any_not_finite, inspect_weights


def lora(path: Path, **tensors: np.ndarray) -> Path:
    save_file(tensors, path, metadata={"ss_network_dim": "4"})
    return path


def test_good_weights_are_reported_with_their_metadata(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", up=np.ones((4, 3), np.float16))
    found = inspect_weights(path)
    assert isinstance(found, Weights)
    assert found.num_bytes == path.stat().st_size
    assert found.metadata["ss_network_dim"] == "4"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_number_that_is_not_finite_is_found(
    tmp_path: Path, bad: float, dtype: type[np.floating]
) -> None:
    up = np.full((700, 1000), np.finfo(dtype).max, dtype)
    up[-1, -1] = bad
    found = inspect_weights(lora(tmp_path / "a.safetensors", down=np.ones(3, dtype), up=up))
    assert isinstance(found, Problem)
    assert "1 tensors: up" in found.text


def test_a_cut_file_is_not_weights(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", up=np.ones((400, 3), np.float16))
    path.write_bytes(path.read_bytes()[:-100])
    found = inspect_weights(path)
    assert isinstance(found, Problem)
    assert "is cut" in found.text


def test_a_missing_and_an_empty_file_are_not_weights(tmp_path: Path) -> None:
    assert isinstance(inspect_weights(tmp_path / "none.safetensors"), Problem)
    assert isinstance(inspect_weights(lora(tmp_path / "a.safetensors")), Problem)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_finiteness_agrees_with_numpy_in_float32(values: list[float]) -> None:
    data = struct.pack(f"<{len(values)}f", *values)
    expected = not np.isfinite(np.frombuffer(data, "<f4")).all()
    assert any_not_finite(data, FORMATS["F32"]) == expected


@given(st.binary(min_size=2, max_size=200).filter(lambda data: len(data) % 2 == 0))
def test_finiteness_agrees_with_numpy_in_float16(data: bytes) -> None:
    expected = not np.isfinite(np.frombuffer(data, "<f2")).all()
    assert any_not_finite(data, FORMATS["F16"]) == expected


@given(st.binary(min_size=2, max_size=200).filter(lambda data: len(data) % 2 == 0))
def test_finiteness_agrees_with_numpy_in_bfloat16(data: bytes) -> None:
    halves = np.frombuffer(data, "<u2").astype("<u4") << 16
    expected = not np.isfinite(halves.view("<f4")).all()
    assert any_not_finite(data, FORMATS["BF16"]) == expected


def test_a_cut_lora_is_not_to_be_downloaded_again(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", down=np.ones(300, np.float32))
    path.write_bytes(path.read_bytes()[:-8])
    found = inspect_weights(path)
    assert isinstance(found, Problem)
    assert "download" not in found.fix
    assert "start the same command again" in found.fix

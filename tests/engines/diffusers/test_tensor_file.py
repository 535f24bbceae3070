"""Tensors read one at a time are those that were saved."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tenner.engines.diffusers.tensor_file import Renamed, TensorFile


def test_every_number_format_comes_back(tmp_path: Path) -> None:
    saved = {
        f"a.{dtype}".replace("torch.", ""): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.float64)
    }
    saved |= {"empty": torch.zeros(0, 3), "number": torch.tensor(4.5)}
    save_file(saved, tmp_path / "x.safetensors", metadata={"a": "b"})
    found = TensorFile(tmp_path / "x.safetensors")
    assert set(found) == set(saved)
    for name, value in saved.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_a_cut_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="ends inside a"):
        TensorFile(path)["a"]


def test_renamed_tensors_are_looked_up_when_asked_for(tmp_path: Path) -> None:
    save_file({"unet.a": torch.ones(2), "vae.b": torch.zeros(2)}, tmp_path / "x.safetensors")
    found = Renamed.of(TensorFile(tmp_path / "x.safetensors"), "unet.")
    assert list(found) == ["a"]
    assert found["a"].tolist() == [1, 1]
    both = Renamed.joined([found, {"c": torch.tensor(3)}])
    assert sorted(both) == ["a", "c"]

"""Tensors read one at a time are those that were saved."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tenner.engines.native.lora_file import LoraFileError, read_lora
from tenner.engines.native.tensor_file import Renamed, TensorFile
from tenner.sample.load import LoadError, lora_tag


def test_every_dtype_is_read_back(tmp_path: Path) -> None:
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


def test_a_cut_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is cut"):
        TensorFile(path)


@pytest.mark.parametrize(
    "head", [b'{"a":{"dtype":"F32","shape":[1],"data_offsets":null}}', b"{" + b"[" * 100_000]
)
def test_a_head_made_to_harm_is_a_value_error(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(64))
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        TensorFile(path)
    with pytest.raises(LoraFileError, match=r"x\.safetensors"):
        read_lora(path, None)  # pyright: ignore[reportArgumentType]  it is not reached
    with pytest.raises(LoadError, match=r"x\.safetensors"):
        lora_tag(path)


def test_numbers_of_a_format_that_torch_lacks_are_reported(tmp_path: Path) -> None:
    head = b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(64))
    with pytest.raises(ValueError, match="format F4"):
        TensorFile(path)["a"]


def test_renamed_tensors_are_read_when_they_are_looked_up(tmp_path: Path) -> None:
    save_file({"unet.a": torch.ones(2), "vae.b": torch.zeros(2)}, tmp_path / "x.safetensors")
    found = Renamed.of(TensorFile(tmp_path / "x.safetensors"), "unet.")
    assert list(found) == ["a"]
    assert found["a"].tolist() == [1, 1]
    both = Renamed.joined([found, {"c": torch.tensor(3)}])
    assert sorted(both) == ["a", "c"]

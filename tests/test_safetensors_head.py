"""The head of a safetensors file: whatever is in it, only the reader's own error comes out."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tenner.base.inspection import inspect_base
from tenner.base.local import find_local_base
from tenner.core.errors import Problem, SettingsError
from tenner.core.safetensors_head import data_start, read_safetensors_header, tensor_entries
from tenner.core.weights import Weights, inspect_weights


def file_of(path: Path, head: bytes, data: bytes = bytes(64), *, length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(head) if length is None else length) + head + data)
    return path


def head_of(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


GOOD: dict[str, Any] = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
SPOILT = {
    "offsets null": head_of(a=GOOD | {"data_offsets": None}),
    "offsets a text": head_of(a=GOOD | {"data_offsets": "024"}),
    "one offset": head_of(a=GOOD | {"data_offsets": [24]}),
    "three offsets": head_of(a=GOOD | {"data_offsets": [0, 24, 48]}),
    "offsets backwards": head_of(a=GOOD | {"data_offsets": [24, 0]}),
    "offset below zero": head_of(a=GOOD | {"data_offsets": [-24, 0]}),
    "offset a fraction": head_of(a=GOOD | {"data_offsets": [0, 24.0]}),
    "offset true": head_of(a=GOOD | {"shape": [], "dtype": "U8", "data_offsets": [False, True]}),
    "offset infinite": b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 1e999]}}',
    "offset of 10,000 digits": b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,%s]}}'
    % (b"9" * 10_000),
    "shape null": head_of(a=GOOD | {"shape": None}),
    "shape of texts": head_of(a=GOOD | {"shape": ["2", "3"]}),
    "shape below zero": head_of(a=GOOD | {"shape": [-2, -3]}),
    "shape of other bytes": head_of(a=GOOD | {"shape": [2, 4]}),
    "dtype a list": head_of(a=GOOD | {"dtype": ["F32"]}),
    "dtype missing": head_of(a={"shape": [2, 3], "data_offsets": [0, 24]}),
    "entry null": head_of(a=None),
    "entry a number": head_of(a=3),
    "entry a list": head_of(a=[GOOD]),
    "metadata null": head_of(__metadata__=None, a=GOOD),
    "metadata of numbers": head_of(__metadata__={"ss_steps": 3}, a=GOOD),
    "nested lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "open brackets": b"{" + b"[" * 1_000_000,
    "not UTF-8": b'{"\xff\xfe": 1}',
    "a list": b"[]",
    "half": head_of(a=GOOD)[:-5],
}


@pytest.mark.parametrize("head", SPOILT.values(), ids=SPOILT)
def test_a_head_made_to_harm_is_a_sentence_with_a_fix(tmp_path: Path, head: bytes) -> None:
    path = file_of(tmp_path / "a.safetensors", head)
    with pytest.raises(SettingsError) as caught:
        read_safetensors_header(path)
    assert str(path) in str(caught.value)
    assert all(problem.fix for problem in caught.value.problems)
    assert isinstance(inspect_weights(path), Problem)
    with pytest.raises(SettingsError):
        inspect_base(path, name="a")


def test_a_folder_and_a_missing_file_are_sentences(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(SettingsError, match="cannot be read"):
            read_safetensors_header(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
SIZES = st.lists(st.integers(-2, 40) | JSON, max_size=3)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F16", "F32", "BF16", "U8", "F4", ""]) | JSON,
        "shape": SIZES | JSON,
        "data_offsets": SIZES | JSON,
        "more": JSON,
    },
)
HEADS = st.dictionaries(
    st.sampled_from(["__metadata__", "a", "b", "model.diffusion_model.input_blocks.0.0.weight"]),
    ENTRIES | JSON,
    max_size=4,
)


@given(head=HEADS.map(lambda head: json.dumps(head).encode()) | st.binary(max_size=200))
def test_any_head_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, head: bytes) -> None:
    path = file_of(tmp_path_factory.getbasetemp() / "fuzz.safetensors", head)
    try:
        header = read_safetensors_header(path)
    except SettingsError:
        assert isinstance(inspect_weights(path), Problem)
        return
    size = path.stat().st_size - data_start(path)
    for entry in tensor_entries(header).values():
        begin, end = entry["data_offsets"]
        assert 0 <= begin <= end <= size
    assert isinstance(inspect_weights(path), Weights | Problem)
    with contextlib.suppress(SettingsError):
        inspect_base(path, name="fuzz")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(data)
    with contextlib.suppress(SettingsError):
        read_safetensors_header(path)


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
            lambda name: name != "__metadata__"
        ),
        st.lists(st.integers(0, 4), max_size=3),
        max_size=4,
    ),
    st.sampled_from(["float16", "float32", "float64", "int8", "uint16", "int64", "bool"]),
)
def test_what_safetensors_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]], dtype: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "good.safetensors"
    save_file({name: np.zeros(shape, dtype) for name, shape in shapes.items()}, path, {"a": "b"})
    found = read_safetensors_header(path)
    with safe_open(path, "np") as opened:
        names = opened.keys()
        expected = {name: list(opened.get_slice(name).get_shape()) for name in names}
    assert {name: each["shape"] for name, each in tensor_entries(found).items()} == expected


@pytest.mark.parametrize("head", SPOILT.values(), ids=SPOILT)
def test_nothing_is_refused_that_safetensors_reads(tmp_path: Path, head: bytes) -> None:
    path = file_of(tmp_path / "a.safetensors", head)
    with pytest.raises((SafetensorError, ValueError)), safe_open(path, "np"):
        pass


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("unet", b"[]"),
        ("unet", b"[" * 100_000),
        ("unet", b'{"sample_size": "wide"}'),
        ("unet", b'{"sample_size": 1000000000}'),
        ("vae", b'{"block_out_channels": 4}'),
        ("vae", b'{"block_out_channels": []}'),
        ("scheduler", b'{"prediction_type": ["epsilon"]}'),
        ("scheduler", b"\xff"),
    ],
)
def test_a_models_folder_with_a_spoilt_configuration_is_refused(
    tmp_path: Path, part: str, content: bytes
) -> None:
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        folder = tmp_path / "m" / name
        folder.mkdir(parents=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / file).write_bytes(content if name == part else b"{}")
        save_file({"a": np.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(SettingsError) as caught:
        find_local_base(str(tmp_path / "m"), models_dir=tmp_path, tiny_dir=tmp_path)
    assert str(tmp_path / "m") in str(caught.value)

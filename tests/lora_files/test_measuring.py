"""Norms, ratios and what did not move: against whole matrices that torch multiplies."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from tenner.base.local import find_local_base
from tenner.base.tiny import base_dir
from tenner.lora_files import measuring
from tenner.lora_files.base_tensors import base_weights
from tenner.lora_files.measured import Measured, MeasureJob, PartMeasure
from tenner.lora_files.measuring import measure
from tenner.lora_files.numbers import rounded

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def measured(path: Path, **others: str) -> PartMeasure:
    (part,) = measure(MeasureJob(path=str(path), **others)).parts
    return part


def save(path: Path, tensors: dict[str, Tensor], name: str = NAME) -> Path:
    save_file({f"{name}.{key}": value.contiguous() for key, value in tensors.items()}, path)
    return path


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def linear() -> tuple[dict[str, Tensor], Tensor]:
    down, up = draw(4, 12), draw(20, 4)
    return {
        "alpha": torch.tensor(2.0),
        "lora_down.weight": down,
        "lora_up.weight": up,
    }, 0.5 * up @ down


def convolution() -> tuple[dict[str, Tensor], Tensor]:
    down, up = draw(4, 12, 3, 3), draw(20, 4, 1, 1)
    whole = torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
    return {"alpha": torch.tensor(1.0), "lora_down.weight": down, "lora_up.weight": up}, whole / 4


def tucker() -> tuple[dict[str, Tensor], Tensor]:
    down, mid, up = draw(4, 12, 1, 1), draw(4, 4, 3, 3), draw(20, 4, 1, 1)
    whole = torch.einsum("op,pqkl,qi->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    return {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}, whole


def loha() -> tuple[dict[str, Tensor], Tensor]:
    one, two, three, four = draw(20, 4), draw(4, 12), draw(20, 4), draw(4, 12)
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    tensors = dict(zip(names, (one, two, three, four), strict=True)) | {"alpha": torch.tensor(2.0)}
    return tensors, 0.5 * (one @ two) * (three @ four)


def lokr() -> tuple[dict[str, Tensor], Tensor]:
    first, left, right = draw(4, 3), draw(5, 2), draw(2, 4)
    tensors = {"lokr_w1": first, "lokr_w2_a": left, "lokr_w2_b": right}
    return tensors | {"alpha": torch.tensor(1.0)}, 0.5 * torch.kron(first, left @ right)


def full() -> tuple[dict[str, Tensor], Tensor]:
    return {"diff": draw(20, 12)}, draw(20, 12)


@pytest.mark.parametrize("make", [linear, convolution, tucker, loha, lokr, full])
def test_the_norm_is_that_of_the_whole_update(
    tmp_path: Path, make: Callable[[], tuple[dict[str, Tensor], Tensor]]
) -> None:
    tensors, whole = make()
    found = measured(save(tmp_path / "a.safetensors", tensors))
    assert found.norm == pytest.approx(float(torch.linalg.norm(whole)), rel=1e-5)
    assert (found.num_modules, found.num_measured, found.num_unchanged) == (1, 1, 0)
    assert found.ratio is None


def ia3(path: Path, *, on_input: bool, factor: float, dtype: torch.dtype = torch.float32) -> Path:
    numbers = factor * draw(12 if on_input else 20)
    return save(path, {"weight": numbers.to(dtype), "on_input": torch.tensor(int(on_input))})


@pytest.mark.parametrize("on_input", [False, True])
def test_the_update_of_an_ia3_is_the_bases_rows_or_columns_times_its_numbers(
    tmp_path: Path, on_input: bool
) -> None:
    weight, base = draw(20, 12), tmp_path / "base.safetensors"
    path = NAME.removeprefix("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_")
    own = f"input_blocks.1.1.transformer_blocks.0.{path.replace('_', '.', 1)}"
    save_file({f"model.diffusion_model.{own}.weight": weight}, base)
    start = ia3(tmp_path / "start.safetensors", on_input=on_input, factor=0.1)
    file = ia3(tmp_path / "a.safetensors", on_input=on_input, factor=0.4)
    found = measured(file, base=str(base), family="sd1", start=str(start))
    numbers = 0.4 * draw(12 if on_input else 20)
    whole = weight * numbers if on_input else weight * numbers[:, None]
    assert (found.num_measured, found.num_on_base, found.num_unchanged) == (1, 1, 0)
    assert found.norm == pytest.approx(float(torch.linalg.norm(whole)), rel=1e-5)
    assert found.moved == pytest.approx(0.75 * found.norm, rel=1e-5)
    ratio = float(torch.linalg.norm(whole) / torch.linalg.norm(weight))
    assert found.ratio == pytest.approx(ratio, rel=1e-5)
    assert found.dtype == "F32"


def test_an_ia3_without_a_base_is_known_to_be_unchanged_or_not(tmp_path: Path) -> None:
    zero = ia3(tmp_path / "zero.safetensors", on_input=True, factor=0.0)
    found = measured(zero)
    assert (found.is_unchanged, found.num_measured, found.zero_share) == (True, 0, 1.0)
    file = ia3(tmp_path / "a.safetensors", on_input=True, factor=0.1)
    assert not measured(file).is_unchanged
    half = ia3(tmp_path / "half.safetensors", on_input=True, factor=0.1, dtype=torch.float16)
    assert measured(half, start=str(file)).is_unchanged
    assert not measured(file, start=str(zero)).is_unchanged


@pytest.mark.parametrize("zero", ["lora_up.weight", "lora_down.weight"])
def test_a_module_whose_product_is_zero_does_nothing(tmp_path: Path, zero: str) -> None:
    tensors, _ = linear()
    tensors[zero] = torch.zeros_like(tensors[zero])
    found = measured(save(tmp_path / "a.safetensors", tensors))
    assert (found.is_unchanged, found.norm) == (True, 0.0)
    assert found.zero_share == (1.0 if zero == "lora_up.weight" else 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_start_that_was_only_rounded_is_unchanged(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors, _ = linear()
    start = save(tmp_path / "start.safetensors", tensors)
    same = {key: value.to(dtype) for key, value in tensors.items()}
    path = save(tmp_path / "a.safetensors", same)
    assert measured(path, start=str(start)).num_unchanged == 1
    same["lora_up.weight"][3, 2] *= 1.1
    path = save(tmp_path / "b.safetensors", same)
    found = measured(path, start=str(start))
    assert found.num_unchanged == 0
    assert found.moved is not None
    assert 0 < found.moved < found.norm


def test_what_moved_is_the_difference_to_the_start_whatever_its_rank(tmp_path: Path) -> None:
    tensors, whole = linear()
    down, up = draw(7, 12), draw(20, 7)
    start = save(tmp_path / "start.safetensors", {"lora_down.weight": down, "lora_up.weight": up})
    found = measured(save(tmp_path / "a.safetensors", tensors), start=str(start))
    expected = float(torch.linalg.norm(whole - up @ down))
    assert found.moved == pytest.approx(expected, rel=1e-5)
    assert found.start_norm == pytest.approx(float(torch.linalg.norm(up @ down)), rel=1e-5)


def test_what_saving_in_fp16_loses_is_found_by_comparing(tmp_path: Path) -> None:
    tensors, whole = linear()
    tensors["lora_up.weight"] *= 1e-8
    reference = save(tmp_path / "state.safetensors", tensors)
    half = {key: value.half() for key, value in tensors.items()}
    path = save(tmp_path / "a.safetensors", half)
    found = measured(path, reference=str(reference))
    product = half["lora_up.weight"].double() @ half["lora_down.weight"].double()
    expected = torch.linalg.norm(0.5 * product - 1e-8 * whole) / torch.linalg.norm(1e-8 * whole)
    assert found.lost == pytest.approx(float(expected), rel=1e-4)
    assert found.zero_share + found.tiny_share == 1.0


def test_the_ratio_to_the_tiny_base_is_that_of_diffusers_own_weights(tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(base_dir() / "unet")
    text = CLIPTextModel.from_pretrained(base_dir() / "text_encoder")
    models = {"lora_unet": unet, "lora_te": text}
    weights: dict[str, Tensor] = {}
    for prefix, model in models.items():
        for path, module in model.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and (
                "attentions" in path or "self_attn" in path or "mlp" in path or "conv" in path
            ):
                path = (
                    path if prefix == "lora_unet" or "text_model" in path else f"text_model.{path}"
                )
                weights[f"{prefix}_{path.replace('.', '_')}"] = module.weight.detach().float()
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        tensors[f"{name}.lora_down.weight"] = 0.01 * draw(2, *weight.shape[1:])
        tensors[f"{name}.lora_up.weight"] = draw(weight.shape[0], 2, *(1 for _ in weight.shape[2:]))
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    found = measure(MeasureJob(path=str(path), base=str(base_dir()), family="sd1"))
    assert {part.part for part in found.parts} == {"unet", "text_encoder"}
    for part in found.parts:
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[part.part]
        mine = {name: each for name, each in weights.items() if name.startswith(prefix)}
        updates = [
            tensors[f"{name}.lora_up.weight"].flatten(1).double()
            @ tensors[f"{name}.lora_down.weight"].flatten(1).double()
            for name in mine
        ]
        update = sum(float(each.square().sum()) for each in updates) ** 0.5
        base = sum(float(each.double().square().sum()) for each in mine.values()) ** 0.5
        assert part.num_on_base == part.num_measured == len(mine)
        assert part.ratio == pytest.approx(update / base, rel=1e-4)


def test_a_checkpoint_is_found_by_the_same_names_as_the_folder(tmp_path: Path) -> None:
    """The tiny base under the original layout's names, as sd-scripts' converter writes them."""
    from tenner.engines.native.unet_config import parse_unet_config
    from tenner.engines.native.unet_names import OriginalNames

    folder = base_weights(base_dir(), "sd1")
    config = parse_unet_config(json.loads((base_dir() / "unet" / "config.json").read_text()))
    names = OriginalNames(config)
    unet = load_file(base_dir() / "unet" / "diffusion_pytorch_model.safetensors")
    assert len({path for part, path in folder if part == "unet"}) > 0
    for name in unet:
        if unet[name].dim() < 2:
            continue
        path = name.removesuffix(".weight")
        direct = folder["unet", path.replace(".", "_")]
        original = folder["unet", names.of(path).replace(".", "_")]
        assert direct.entry.start == original.entry.start


def test_open_clips_joined_projection_is_cut_in_three(tmp_path: Path) -> None:
    joined = draw(12, 4)
    prefix = "conditioner.embedders.1.model.transformer.resblocks.3."
    path = tmp_path / "base.safetensors"
    save_file(
        {
            f"{prefix}attn.in_proj_weight": joined,
            f"{prefix}mlp.c_fc.weight": draw(8, 4),
            "model.diffusion_model.middle_block.1.proj_in.weight": draw(5, 5),
        },
        path,
    )
    found = base_weights(path, "sdxl")
    assert ("unet", "mid_block_attentions_0_proj_in") in found
    assert ("unet", "middle_block_1_proj_in") in found
    assert ("text_encoder_2", "text_model_encoder_layers_3_mlp_fc1") in found
    lora = "lora_te2_text_model_encoder_layers_3_self_attn_{}_proj"
    for index, letter in enumerate("qkv"):
        file = save(tmp_path / "a.safetensors", linear()[0], lora.format(letter))
        part = measured(file, base=str(path), family="sdxl")
        third = joined[4 * index : 4 * index + 4]
        assert part.base_norm == pytest.approx(float(torch.linalg.norm(third)), rel=1e-6)


@pytest.mark.parametrize(
    ("family", "prefix", "path"),
    [
        ("flux", "", "double_blocks.0.img_attn.qkv"),
        ("sd35-medium", "model.diffusion_model.", "joint_blocks.0.x_block.attn.qkv"),
        ("lumina2", "", "layers.0.attention.qkv"),
        ("anima", "net.", "blocks.0.self_attn.q_proj"),
        ("hunyuan-image", "", "single_blocks.0.linear1"),
    ],
)
def test_a_transformer_has_the_names_of_its_file(
    tmp_path: Path, family: str, prefix: str, path: str
) -> None:
    weight = draw(20, 12)
    base = tmp_path / "base.safetensors"
    save_file({f"{prefix}{path}.weight": weight}, base)
    tensors, update = linear()
    file = save(tmp_path / "a.safetensors", tensors, f"lora_unet_{path.replace('.', '_')}")
    part = measured(file, base=str(base), family=family)
    expected = torch.linalg.norm(update) / torch.linalg.norm(weight)
    assert part.ratio == pytest.approx(float(expected), rel=1e-5)


def test_a_large_base_is_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine weights of one size, of which a third may be read."""
    monkeypatch.setattr(measuring, "_MOST_READ", 3 * 20 * 12 * 4)
    weights = {f"double_blocks.{each}.img_attn.qkv": draw(20, 12) * (each + 1) for each in range(9)}
    base = tmp_path / "base.safetensors"
    save_file({f"{name}.weight": each for name, each in weights.items()}, base)
    tensors: dict[str, Tensor] = {}
    for name in weights:
        for key, value in linear()[0].items():
            tensors[f"lora_unet_{name.replace('.', '_')}.{key}"] = value.clone()
    save_file(tensors, tmp_path / "a.safetensors")
    part = measured(tmp_path / "a.safetensors", base=str(base), family="flux")
    read = torch.stack([weights[f"double_blocks.{each}.img_attn.qkv"] for each in (0, 3, 6)])
    assert part.base_norm == pytest.approx(float(torch.linalg.norm(read)) * 3**0.5, rel=1e-5)
    assert part.num_on_base == 9


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_rounding_to_bf16_is_torchs(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    expected = tensor.bfloat16().double()
    got = torch.from_numpy(rounded(tensor.double().numpy(), "BF16"))
    assert torch.equal(got, expected)


def test_as_a_program_it_answers_in_json_and_reports_why_it_cannot(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"path": str(save(tmp_path / "a.safetensors", linear()[0]))}))
    argv = [sys.executable, "-m", "tenner.lora_files.measuring", str(job)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert Measured.from_json(done.stdout).parts[0].part == "unet"
    job.write_text(json.dumps({"path": str(tmp_path / "none.safetensors")}))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_base_that_cannot_be_read_leaves_the_norms(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", linear()[0])
    (tmp_path / "base.safetensors").write_bytes(b"<html>")
    found = measure(MeasureJob(path=str(path), base=str(tmp_path / "base.safetensors")))
    assert "a web page" in found.base_problem
    assert found.parts[0].norm > 0
    assert found.parts[0].ratio is None


def test_the_tiny_base_is_whole() -> None:
    base = find_local_base("tiny", models_dir=Path("/nowhere"), tiny_dir=base_dir())
    assert base is not None
    assert {part for part, _ in base_weights(base.path, base.family)} == {"unet", "text_encoder"}

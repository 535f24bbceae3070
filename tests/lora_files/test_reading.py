"""What a LoRA file is, read from its header: names, kinds, ranks, families, and what it is not."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file as save_torch

from tenner.core.errors import SettingsError
from tenner.lora_files import read_lora_file
from tests.lora_files.made import kohya, write, write_head

ATTENTION = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DOTTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
SD_SCRIPTS = json.loads((Path(__file__).parent / "sd_scripts_modules.json").read_text())


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_what_sd_scripts_writes_is_understood_whole(tmp_path: Path, family: str) -> None:
    shapes: dict[str, list[int]] = {}
    for name, (outputs, inputs, *kernel) in SD_SCRIPTS[family].items():
        shapes[f"{name}.alpha"] = []
        shapes[f"{name}.lora_down.weight"] = [8, inputs, *kernel]
        shapes[f"{name}.lora_up.weight"] = [outputs, 8, *(1 for _ in kernel)]
    file = read_lora_file(write_head(tmp_path / "a.safetensors", shapes))
    assert (file.naming, file.kinds, file.ranks()) == ("kohya", ("lora",), (8,))
    assert (file.other_tensors, file.num_incomplete) == ((), 0)
    assert file.family == {"sd15": "sd1", "sdxl": "sdxl"}[family]
    assert {
        module.name: [module.out_features, module.in_features, *(module.kernel or ())]
        for module in file.modules
    } == SD_SCRIPTS[family]
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te", "text_encoder_2": "lora_te2_"}
    for part, modules in file.parts.items():
        assert all(module.name.startswith(prefixes[part]) for module in modules)


@pytest.mark.parametrize(
    ("width", "family"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl"), (64, None)]
)
def test_the_family_is_reported_by_what_cross_attention_reads(
    tmp_path: Path, width: int, family: str | None
) -> None:
    tensors = kohya(f"lora_unet_{ATTENTION}", 320, width, 4, 2.0)
    file = read_lora_file(write(tmp_path / "a.safetensors", tensors))
    assert file.family == family


def test_a_width_of_nobody_is_reported_by_the_metadata(tmp_path: Path) -> None:
    tensors = kohya(f"lora_unet_{ATTENTION}", 64, 64, 4, 2.0)
    metadata = {"ss_base_model_version": "sdxl_base_v1-0"}
    file = read_lora_file(write(tmp_path / "a.safetensors", tensors, metadata))
    assert (file.family, file.family_from) == ("sdxl", "ss_base_model_version")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_alpha_is_read_in_every_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {
        f"lora_unet_{ATTENTION}.{name}": tensor.to(dtype)
        for name, tensor in {
            "alpha": torch.tensor(0.5),
            "lora_down.weight": torch.ones(4, 768),
            "lora_up.weight": torch.ones(320, 4),
        }.items()
    }
    save_torch(tensors, path)
    (module,) = read_lora_file(path).modules
    assert (module.rank, module.alpha, module.scale) == (4, 0.5, 0.125)
    assert (module.in_features, module.out_features, module.kernel) == (768, 320, ())


def test_a_convolution_has_ranks_of_its_own(tmp_path: Path) -> None:
    tensors = kohya(f"lora_unet_{ATTENTION}", 320, 768, 8, 4.0)
    convolution = "lora_unet_down_blocks_0_resnets_0_conv1"
    tensors |= {
        f"{convolution}.alpha": np.array(1.0, np.float32),
        f"{convolution}.lora_down.weight": np.ones((2, 320, 3, 3), np.float32),
        f"{convolution}.lora_up.weight": np.ones((320, 2, 1, 1), np.float32),
    }
    file = read_lora_file(write(tmp_path / "a.safetensors", tensors))
    assert (file.ranks(), file.alphas()) == ((8,), (4.0,))
    assert (file.ranks(convolutions=True), file.alphas(convolutions=True)) == ((2,), (1.0,))


class _Attention(torch.nn.Module):
    """A module with the names of a U-Net's attention, for PEFT to adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.to_k = torch.nn.Linear(768, 320)
        self.to_q = torch.nn.Linear(320, 320)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.to_k(x)


class _Unet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = torch.nn.ModuleDict({"attn2": _Attention()})
        transformer = torch.nn.ModuleDict({"transformer_blocks": torch.nn.ModuleList([block])})
        down = torch.nn.ModuleDict({"attentions": torch.nn.ModuleList([transformer])})
        self.down_blocks = torch.nn.ModuleList([down])


def test_what_peft_saves_is_understood_with_its_alpha(tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=2, target_modules=["to_k", "to_q"], use_dora=False)
    model = get_peft_model(_Unet(), config)
    model.save_pretrained(tmp_path)
    file = read_lora_file(tmp_path)
    assert (file.naming, file.kinds, file.family) == ("peft", ("lora",), "sd1")
    assert {module.alpha for module in file.modules} == {2.0}
    assert {module.plain_path for module in file.modules} == {
        ATTENTION,
        ATTENTION.replace("to_k", "to_q"),
    }


def test_pefts_dora_is_reported_from_lora(tmp_path: Path) -> None:
    model = get_peft_model(_Unet(), LoraConfig(r=4, target_modules=["to_k"], use_dora=True))
    path = tmp_path / "a.safetensors"
    save_torch(
        {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()},
        path,
    )
    file = read_lora_file(path)
    assert (file.naming, file.kinds, file.ranks()) == ("peft", ("dora",), (4,))


LORA = {"down": (4, 768), "up": (320, 4)}
STYLES = {
    "diffusers with PEFT": (f"unet.{DOTTED}.lora_A.weight", f"unet.{DOTTED}.lora_B.weight"),
    "diffusers 0.22": (f"unet.{DOTTED}.lora.down.weight", f"unet.{DOTTED}.lora.up.weight"),
    "an adapter's name": (
        f"base_model.model.{DOTTED}.lora_A.default.weight",
        f"base_model.model.{DOTTED}.lora_B.default.weight",
    ),
    "ComfyUI": (
        f"diffusion_model.{DOTTED}.lora_down.weight",
        f"diffusion_model.{DOTTED}.lora_up.weight",
    ),
    "attention processors": (
        f"{DOTTED.removesuffix('.to_k')}.processor.to_k_lora.down.weight",
        f"{DOTTED.removesuffix('.to_k')}.processor.to_k_lora.up.weight",
    ),
    "attention processors under unet": (
        f"unet.{DOTTED.removesuffix('.to_k')}.processor.to_k_lora.down.weight",
        f"unet.{DOTTED.removesuffix('.to_k')}.processor.to_k_lora.up.weight",
    ),
}
NAMINGS = ("diffusers", "diffusers", "peft", "comfyui", "diffusers_old", "diffusers_old")


@pytest.mark.parametrize(
    ("style", "naming"), list(zip(STYLES, NAMINGS, strict=True)), ids=list(STYLES)
)
def test_every_naming_means_the_same_module(tmp_path: Path, style: str, naming: str) -> None:
    down, up = STYLES[style]
    tensors = {down: np.ones(LORA["down"], np.float16), up: np.ones(LORA["up"], np.float16)}
    file = read_lora_file(write(tmp_path / "a.safetensors", tensors))
    (module,) = file.modules
    assert file.naming == naming
    assert (module.part, module.plain_path, module.kind) == ("unet", ATTENTION, "lora")
    assert (module.rank, module.alpha, module.scale) == (4, None, 1.0)
    assert file.family == "sd1"
    assert file.alphas() == (4.0,)


def test_text_encoders_are_parts_of_their_own(tmp_path: Path) -> None:
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    tensors = {}
    for prefix, width in (("text_encoder", 768), ("text_encoder_2", 1280)):
        tensors[f"{prefix}.{layer}.lora_linear_layer.down.weight"] = np.ones((4, width), np.float16)
        tensors[f"{prefix}.{layer}.lora_linear_layer.up.weight"] = np.ones((width, 4), np.float16)
    file = read_lora_file(write(tmp_path / "a.safetensors", tensors))
    assert list(file.parts) == ["text_encoder", "text_encoder_2"]
    assert file.family == "sdxl"


LYCORIS = {
    "loha": {
        "hada_w1_a": (320, 4),
        "hada_w1_b": (4, 768),
        "hada_w2_a": (320, 4),
        "hada_w2_b": (4, 768),
    },
    "lokr": {"lokr_w1": (16, 24), "lokr_w2_a": (20, 4), "lokr_w2_b": (4, 32)},
    "dora": {"lora_down.weight": (4, 768), "lora_up.weight": (320, 4), "dora_scale": (1, 768)},
    "oft": {"oft_blocks": (4, 80, 80)},
    "ia3": {"weight": (320,), "on_input": ()},
    "glora": {
        "a1.weight": (4, 320),
        "a2.weight": (768, 4),
        "b1.weight": (4, 320),
        "b2.weight": (768, 4),
    },
    "full": {"diff": (320, 768)},
    "norm": {"w_norm": (320,), "b_norm": (320,)},
}


@pytest.mark.parametrize("kind", LYCORIS)
def test_lycoris_kinds_are_distinguished(tmp_path: Path, kind: str) -> None:
    tensors = {
        f"lora_unet_{ATTENTION}.{name}": np.ones(shape, np.float16)
        for name, shape in LYCORIS[kind].items()
    }
    file = read_lora_file(write(tmp_path / "a.safetensors", tensors))
    (module,) = file.modules
    assert file.kinds == (kind,)
    assert module.is_whole
    assert module.rank == (4 if kind in ("loha", "lokr", "dora") else None)
    if kind in ("loha", "lokr", "dora", "full"):
        assert (module.in_features, module.out_features) == (768, 320)
        assert file.family == "sd1"


def test_oft_of_sd_scripts_over_flux_has_a_tensor_for_each_of_queries_keys_and_values(
    tmp_path: Path,
) -> None:
    """networks/oft_flux.py keeps them as a list of parameters."""
    name = "oft_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{name}.oft_blocks.{number}": np.ones((4, 8, 8), np.float16) for number in range(3)}
    tensors[f"{name}.alpha"] = np.array(4, np.float16)
    file = read_lora_file(write(tmp_path / "a.safetensors", tensors))
    assert (file.kinds, file.family, len(file.modules)) == (("oft",), "flux", 1)
    assert file.modules[0].is_whole
    assert file.other_tensors == ()


def test_a_missing_half_and_foreign_tensors_are_reported(tmp_path: Path) -> None:
    tensors = kohya(f"lora_unet_{ATTENTION}", 320, 768, 4, 4.0)
    tensors |= kohya("lora_unet_mid_block_attentions_0_proj_in", 1280, 1280, 4, 4.0)
    del tensors["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"]
    tensors["bundle_emb.x.string_to_param.*"] = np.ones((2, 768), np.float32)
    file = read_lora_file(write(tmp_path / "a.safetensors", tensors))
    assert file.num_incomplete == 1
    assert file.other_tensors == ("bundle_emb.x.string_to_param.*",)


@pytest.mark.parametrize(
    ("names", "family", "architecture"),
    [
        (["lora_unet_double_blocks_0_img_attn_qkv", "lora_te1_text_model_x"], "flux", "FLUX.1 dev"),
        (["transformer.single_transformer_blocks.0.attn.to_q"], "flux", "FLUX.1 dev"),
        (["lora_unet_joint_blocks_0_x_block_attn_qkv"], None, "Stable Diffusion 3"),
        (
            ["lora_unet_joint_blocks_0_x_block_attn2_qkv"],
            "sd35-medium",
            "Stable Diffusion 3.5 Medium",
        ),
        (
            ["lora_unet_layers_25_attention_qkv", "lora_unet_noise_refiner_0_attention_out"],
            "lumina2",
            "Lumina Image 2.0",
        ),
        (["lora_unet_layers_29_attention_qkv"], None, "a transformer model"),
    ],
)
def test_transformers_are_called_by_name(
    tmp_path: Path, names: list[str], family: str | None, architecture: str
) -> None:
    tensors = {}
    for name in names:
        tensors |= kohya(name, 64, 64, 4, 4.0)
    file = read_lora_file(write(tmp_path / "a.safetensors", tensors))
    assert (file.family, file.architecture) == (family, architecture)
    assert "unet" not in file.parts


@pytest.mark.parametrize(("width", "family"), [(3072, "flux"), (3584, "hunyuan-image")])
def test_hunyuan_image_is_told_from_flux_by_its_width(
    tmp_path: Path, width: int, family: str
) -> None:
    tensors = kohya("lora_unet_double_blocks_0_img_attn_qkv", 3 * width, width, 4, 4.0)
    assert read_lora_file(write(tmp_path / "a.safetensors", tensors)).family == family


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "a base model"),
        ("emb_params", "a textual inversion"),
        ("first_stage_model.decoder.conv_in.weight", "a VAE"),
        ("down_blocks.0.resnets.0.conv1.weight", "no LoRA of a known kind"),
    ],
)
def test_what_is_no_lora_is_called_what_it_is(tmp_path: Path, name: str, message: str) -> None:
    path = write(tmp_path / "a.safetensors", {name: np.ones((4, 4), np.float16)})
    with pytest.raises(SettingsError, match=message):
        read_lora_file(path)


def test_a_missing_file_and_an_empty_folder_are_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no file"):
        read_lora_file(tmp_path / "none.safetensors")
    with pytest.raises(SettingsError, match=r"no \.safetensors file"):
        read_lora_file(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [f"lora_unet_{ATTENTION}.alpha", f"lora_unet_{ATTENTION}.lora_down.weight", "__metadata__", "x"]
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F16", "F32", "I64", "BF16", "X"]),
        "shape": st.lists(st.integers(-1, 9), max_size=4),
        "data_offsets": st.lists(st.integers(-1, 70), min_size=2, max_size=2),
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(head=st.dictionaries(NAMES, ENTRY | JSON), data=st.binary(max_size=64))
def test_garbage_is_answered_without_a_traceback(
    tmp_path: Path, head: dict[str, object], data: bytes
) -> None:
    raw = json.dumps(head).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    try:
        modules: tuple[object, ...] = read_lora_file(path).modules
    except SettingsError as error:
        modules = error.problems
    assert modules

"""Families as data: recognised by tensors, fitted to cards, refused where a pair is wrong."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.families_table import PAGE, written
from tenner.base.inspection import inspect_base
from tenner.base.model import known_shape
from tenner.core.errors import MachineError, SettingsError
from tenner.engines.choice import possible_engine
from tenner.families import FAMILIES, family_of_shapes, known_bases
from tenner.planning.batch_choice import CardMemory, Wish
from tenner.planning.ladder import FP8_SLOWDOWN
from tenner.planning.levers import Fitted, fit_transformer
from tenner.planning.sizing import AUTO_LIMIT, seconds_per_image
from tenner.planning.vram import Load, encoding_gb, needed_gb
from tenner.settings.model import Settings
from tests.cli.test_command_line import photos, tenner

SHAPES: dict[str, dict[str, list[int]]] = {
    "flux": {
        "double_blocks.0.img_attn.qkv.weight": [9216, 3072],
        "guidance_in.in_layer.weight": [1],
    },
    "flux-schnell": {"double_blocks.0.img_attn.qkv.weight": [9216, 3072]},
    "chroma": {
        "double_blocks.0.img_attn.qkv.weight": [9216, 3072],
        "distilled_guidance_layer.in_proj.weight": [1],
    },
    "sd3": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": [4608, 1536]},
    "sd35-large": {
        "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": [7296, 2432],
        "model.diffusion_model.joint_blocks.0.context_block.attn.ln_k.weight": [64],
    },
    "sd35-medium": {
        "joint_blocks.0.x_block.attn.qkv.weight": [4608, 1536],
        "joint_blocks.0.context_block.attn.ln_k.weight": [64],
        "joint_blocks.0.x_block.attn2.ln_k.weight": [64],
    },
    "lumina2": {"cap_embedder.1.weight": [1], "layers.25.attention.qkv.weight": [1]},
    "anima": {
        "net.blocks.0.adaln_modulation_self_attn.1.weight": [1],
        "net.llm_adapter.out_proj.weight": [1],
    },
    "hunyuan-image": {
        "double_blocks.0.img_attn.qkv.weight": [1],
        "byt5_in.fc1.weight": [1],
    },
}


def safetensors(path: Path, shapes: dict[str, list[int]], dtype: str = "BF16") -> Path:
    """A whole file of zeros, of which the disk holds none."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        start, size = end, 1 if dtype.startswith("F8") else 2
        for each in shape:
            size *= each
        end = start + size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + end)
    return path


def test_each_family_is_recognised_by_its_tensors_and_by_no_others() -> None:
    for family, shapes in SHAPES.items():
        assert family_of_shapes(shapes) == family
        assert [name for name, each in FAMILIES.items() if each.recognises(shapes)] == [family]


def test_the_table_of_the_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page


def load(family: str, rank: int = 16) -> Load:
    side = FAMILIES[family].side
    return Load(family=family, pixels=side * side, network_dim=rank)


@pytest.mark.parametrize(("gb", "swapped"), [(12, 16), (10, 22), (8, 28)])
def test_flux_fits_where_sd_scripts_guide_has_it(gb: int, swapped: int) -> None:
    """docs/flux_train_network.md, 6.1: fp8_base, so many blocks, batch 1, rank 16."""
    lean = Load(
        family="flux",
        pixels=1024**2,
        network_dim=16,
        half_base=True,
        blocks_to_swap=swapped,
        text_gb=5.1,
    )
    assert needed_gb(lean, batch_size=1, gradient_checkpointing=True) < gb * 2**30 / 1e9


def test_flux_in_16_bits_takes_more_than_26_gb() -> None:
    """kohya-ss/misc-models: rank 4, AdamW8bit, cached captions."""
    plain = Load(family="flux", pixels=1024**2, network_dim=4)
    assert 26 < needed_gb(plain, batch_size=1, gradient_checkpointing=True) < 29


def lean_has_fp8(family: str) -> bool:
    size = FAMILIES[family].transformer
    return size is not None and size.has_fp8


@pytest.mark.parametrize("card", ["RTX 3090", "RTX 4090", "A100 80GB", "H100"])
@pytest.mark.parametrize(
    "family", [name for name, each in FAMILIES.items() if each.transformer is not None]
)
def test_more_memory_is_never_slower_nor_fewer_images_to_a_step_nor_fewer_bits(
    card: str, family: str
) -> None:
    fitted: list[Fitted] = []
    for gb in (8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 141):
        memory = CardMemory(name=card, free_mib=gb * 950)
        lean = replace(load(family), text_gb=1.0)
        found = fit_transformer(Settings(), lean, memory, Wish(most_images=100))
        assert not found.batch.is_unsure
        assert (found.batch.needed_gb or 0) <= memory.usable_gb
        fitted.append(found)

    def seconds(each: Fitted) -> float:
        batch, memory = each.batch, CardMemory(name=card, free_mib=None)
        plain = seconds_per_image(each.load, memory, batch.batch_size, batch.gradient_checkpointing)
        return plain * (FP8_SLOWDOWN if each.load.half_base else 1)

    images = [each.batch.batch_size * each.batch.accumulation for each in fitted]
    assert images == sorted(images)
    assert max(images) <= AUTO_LIMIT
    times = [seconds(each) for each in fitted]
    assert times == sorted(times, reverse=True)
    assert fitted[0].load.half_base == lean_has_fp8(family)
    halves = [each.load.half_base for each in fitted]
    assert halves == sorted(halves, reverse=True)
    assert not halves[-1]


def test_captions_of_hunyuan_image_are_encoded_by_what_the_card_can_take() -> None:
    """By `fp8_vl` where the text encoder then fits, else on the CPU; what the user set stays."""
    lean = load("hunyuan-image")
    for gb, option in ((24, None), (16, "fp8_vl"), (12, "fp8_vl"), (8, "text_encoder_cpu")):
        card = CardMemory(name="RTX 4090", free_mib=gb * 950)
        fitted = fit_transformer(Settings(), lean, card, Wish(most_images=100))
        given = {name for name in ("fp8_vl", "text_encoder_cpu") if name in fitted.options}
        assert given == ({option} if option else set())
        assert [each.name for each in fitted.choices if each.name in given] == sorted(given)
        assert encoding_gb(fitted.load) <= card.free_gb
    settings = Settings.model_validate(
        {"engine_options": {"fp8_vl": False, "text_encoder_cpu": False}}
    )
    small = CardMemory(name="RTX 4060", free_mib=7800)
    with pytest.raises(MachineError, match="encoding the captions"):
        fit_transformer(settings, lean, small, Wish())


def test_a_text_encoder_in_8_bits_saves_memory_only_with_a_base_in_8_bits() -> None:
    """sd-scripts widens T5 without fp8_base: a card that has room for the base in 16 bits, but not
    for T5, is planned with both in 8."""
    small = replace(load("sd35-medium"), text_gb=6.4)
    card = CardMemory(name="RTX 4070", free_mib=11400)
    fitted = fit_transformer(Settings(), small, card, Wish(most_images=1))
    assert fitted.options["fp8_base"] is True
    assert encoding_gb(replace(small, text_gb=None)) > card.usable_gb


def test_flux_on_8_gb_needs_a_small_text_encoder_and_names_a_card_that_suffices() -> None:
    card = CardMemory(name="RTX 4060", free_mib=7800)
    assert encoding_gb(load("flux")) > card.free_gb
    with pytest.raises(MachineError, match="encoding the captions") as caught:
        fit_transformer(Settings(), load("flux"), card, Wish())
    assert "t5xxl_fp8_e4m3fn" in caught.value.problems[0].fix
    assert "an hour" in caught.value.problems[0].fix
    small = Load(family="flux", pixels=1024**2, network_dim=16, text_gb=5.1)
    fitted = fit_transformer(Settings(), small, card, Wish())
    assert fitted.options["fp8_base"] is True
    assert int(fitted.options["blocks_to_swap"]) >= 20


@pytest.mark.parametrize(
    ("arguments", "fp8"),
    [(("algo=loha",), False), (("algo=loha", "bypass_mode=True"), True), (("algo=glora",), True)],
)
def test_a_base_that_lycoris_adds_to_stays_in_16_bits(
    arguments: tuple[str, ...], fp8: bool
) -> None:
    settings = Settings(network_module="lycoris.kohya", network_args=arguments)
    card = CardMemory(name="RTX 3060", free_mib=11800)
    small = Load(family="flux", pixels=1024**2, network_dim=16, text_gb=5.1)
    fitted = fit_transformer(settings, small, card, Wish())
    assert fitted.options.get("fp8_base", False) is fp8
    assert int(fitted.options["blocks_to_swap"]) > 0
    assert ("LyCORIS adds to them" in fitted.choices[0].reason) is not fp8


def test_the_built_in_trainer_is_not_taken_for_a_transformer() -> None:
    assert possible_engine(Settings(), tiny=False, other_noise="", family="flux")[0] == "sd-scripts"
    with pytest.raises(SettingsError, match=r"does not train FLUX\.1 dev"):
        possible_engine(Settings(engine="native"), tiny=False, other_noise="", family="flux")


def test_a_small_transformer_is_not_the_tiny_base(tmp_path: Path) -> None:
    """Which the built-in trainer would be taken for."""
    base = inspect_base(safetensors(tmp_path / "chroma.safetensors", SHAPES["chroma"]), name="x")
    assert 0 < base.num_bytes < 100_000_000
    assert not base.is_tiny


def test_a_diffusers_folder_names_the_file_to_take(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    config = {"_class_name": "FluxTransformer2DModel"}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="diffusers layout") as caught:
        inspect_base(tmp_path, name="x")
    assert "flux1-dev.safetensors" in caught.value.problems[0].fix


def test_a_diffusers_folder_is_told_apart_from_others_of_its_class(tmp_path: Path) -> None:
    configs: dict[str, dict[str, object]] = {
        "flux1-schnell": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": False},
        "sd3_medium": {"_class_name": "SD3Transformer2DModel", "num_layers": 24},
        "sd3.5_medium": {
            "_class_name": "SD3Transformer2DModel",
            "num_layers": 24,
            "qk_norm": "rms_norm",
        },
        "sd3.5_large": {
            "_class_name": "SD3Transformer2DModel",
            "num_layers": 38,
            "qk_norm": "rms_norm",
        },
    }
    for file, config in configs.items():
        folder = tmp_path / file / "transformer"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(SettingsError) as caught:
            inspect_base(tmp_path / file, name="x")
        assert f"{file}.safetensors" in caught.value.problems[0].fix


def test_all_that_is_wrong_is_said_at_once_before_anything_is_rented(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    base = safetensors(tmp_path / "flux1-dev.safetensors", SHAPES["flux"] | {"big": [10**6, 11900]})
    args = ("plan", str(folder), "--base-model", str(base), "--gpu", "RTX 4090")
    done = tenner(tmp_path, *args, "--clip_skip", "2", "--t5xxl", str(tmp_path / "none"))
    output = done.stderr
    assert done.returncode == 2
    assert "there is no such file (the text encoder T5-XXL)" in output
    good = tenner(tmp_path, *args)
    assert good.returncode == 0, good.stderr
    assert "FLUX.1 [dev] is not for commercial use" in good.stderr
    wrong = tenner(tmp_path, *args, "--engine", "native")
    assert "the built-in trainer does not train FLUX.1 dev" in wrong.stderr


def test_a_lora_of_another_family_is_refused(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    base = safetensors(tmp_path / "flux1-dev.safetensors", SHAPES["flux"] | {"big": [10**6, 11900]})
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    lora = safetensors(
        tmp_path / "xl.safetensors",
        {f"{name}.lora_down.weight": [4, 2048], f"{name}.lora_up.weight": [640, 4]},
    )
    args = ("plan", str(folder), "--base-model", str(base), "--gpu", "RTX 4090")
    done = tenner(tmp_path, *args, "--network_weights", str(lora))
    assert done.returncode == 2
    assert "is a LoRA of Stable Diffusion XL" in done.stderr


def test_a_base_that_is_known_by_name_predicts_what_its_file_does() -> None:
    known = {base.name: base for base in known_bases()}
    predictions = {name: known_shape(known[name]).prediction for name in known}
    assert predictions["noobai-vpred"] == "v_prediction"
    assert predictions["noobai"] == predictions["pony"] == predictions["sdxl"] == "epsilon"
    assert predictions["flux-dev"] == predictions["sd35-large"] == "flow"

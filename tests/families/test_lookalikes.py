"""Files with a family's tensors that are something else, or that sd-scripts would misread."""

from pathlib import Path

import pytest

from tenner.base.further import Search, find_further
from tenner.base.inspection import inspect_base
from tenner.core.errors import SettingsError
from tenner.settings.model import Settings
from tests.families.test_families import SHAPES, safetensors

FLUX = {**SHAPES["flux"], "img_in.weight": [3072, 64]}
SCALED = "double_blocks.0.img_attn.qkv"


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        inspect_base(path, name="x")
    (problem,) = caught.value.problems
    assert problem.fix
    return problem.text


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({**FLUX, "double_stream_modulation_img.lin.weight": [1, 1]}, "FLUX.2"),
        ({**SHAPES["chroma"], "nerf_blocks.0.norm.scale": [1]}, "Chroma Radiance"),
        ({**FLUX, "txt_in.individual_token_refiner.blocks.0.norm1.weight": [1]}, "HunyuanVideo"),
        ({"transformer_blocks.0.img_mod.1.weight": [1, 1]}, "Qwen-Image"),
        ({**SHAPES["lumina2"], "layers.29.attention.qkv.weight": [1]}, "Z-Image"),
        ({**FLUX, "img_in.weight": [3072, 384]}, "editing or control"),
        (
            {
                f"model.diffusion_model.{name}": shape
                for name, shape in {**FLUX, "img_in.weight": [3072, 128]}.items()
            },
            "editing or control",
        ),
    ],
)
def test_models_that_share_tensors_with_a_family_are_named(
    tmp_path: Path, shapes: dict[str, list[int]], says: str
) -> None:
    assert says in refusal(safetensors(tmp_path / "m.safetensors", shapes))


def test_a_mark_that_a_family_has_too_does_not_make_it_another(tmp_path: Path) -> None:
    """Its `txt_in` is built as HunyuanVideo's."""
    mark = "txt_in.individual_token_refiner.blocks.0.norm1.weight"
    shapes = {**SHAPES["hunyuan-image"], mark: [3584]}
    base = inspect_base(safetensors(tmp_path / "m.safetensors", shapes), name="x")
    assert base.family == "hunyuan-image"


@pytest.mark.parametrize(
    ("name", "family", "says"),
    [
        ("flux1-dev-kontext_fp8.safetensors", "flux", "FLUX.1 Kontext"),
        ("sd3.5_large_turbo.safetensors", "sd35-large", "Large Turbo"),
    ],
)
def test_variants_that_only_the_name_tells_are_refused_by_it(
    tmp_path: Path, name: str, family: str, says: str
) -> None:
    assert says in refusal(safetensors(tmp_path / name, SHAPES[family]))


@pytest.mark.parametrize(
    ("added", "says"),
    [
        ({f"{SCALED}.scale_weight": [1]}, "scaled 8 bits"),
        ({"scaled_fp8": [2]}, "scaled 8 bits"),
        ({f"{SCALED}.comfy_quant": [40]}, "scaled 8 bits"),
        ({f"{SCALED}.weight.absmax": [1], f"{SCALED}.weight.quant_map": [16]}, "nf4"),
        ({f"{SCALED}.wscales": [1]}, "SVDQuant"),
    ],
)
def test_a_quantised_checkpoint_is_refused_and_a_plain_one_in_8_bits_is_not(
    tmp_path: Path, added: dict[str, list[int]], says: str
) -> None:
    assert says in refusal(safetensors(tmp_path / "m.safetensors", {**FLUX, **added}))
    plain = safetensors(tmp_path / "plain.safetensors", FLUX, dtype="F8_E4M3")
    assert inspect_base(plain, name="x").family == "flux"
    other = safetensors(tmp_path / "e5m2.safetensors", FLUX, dtype="F8_E5M2")
    assert "float8_e5m2" in refusal(other)
    assert "whole numbers (I16)" in refusal(safetensors(tmp_path / "i.safetensors", FLUX, "I16"))


def search(models_dir: Path, **settings: object) -> Search:
    return Search(
        settings=Settings.model_validate(settings),
        environ={},
        models_dir=models_dir,
        fetches=False,
        on_stage=lambda name, detail: None,
        on_bytes=None,
    )


T5 = {"encoder.block.23.layer.1.DenseReluDense.wi_0.weight": [4, 4]}


def test_a_scaled_text_encoder_is_passed_over_beside_the_base_and_refused_by_name(
    tmp_path: Path,
) -> None:
    base = inspect_base(safetensors(tmp_path / "flux1-dev.safetensors", FLUX), name="x")
    scaled = safetensors(tmp_path / "a_scaled.safetensors", {**T5, "scaled_fp8": [2]})
    found = find_further(base, search(tmp_path))
    assert "t5xxl" not in found.files
    assert any("T5-XXL is not here" in each.text for each in found.notices)
    plain = safetensors(tmp_path / "b_plain.safetensors", T5)
    assert find_further(base, search(tmp_path)).files["t5xxl"] == plain
    with pytest.raises(SettingsError, match="is quantised: scaled 8 bits"):
        find_further(base, search(tmp_path, engine_options={"t5xxl": str(scaled)}))


def test_text_encoders_inside_a_checkpoint_serve_only_where_sd_scripts_reads_them_there(
    tmp_path: Path,
) -> None:
    """Its scripts of Stable Diffusion 3 do; that of FLUX.1 loads what its options name."""
    inside = {
        "text_encoders.clip_l.transformer.x": [1],
        "text_encoders.clip_g.transformer.x": [1],
        "text_encoders.t5xxl.transformer.x": [1],
    }
    sd3 = inspect_base(
        safetensors(tmp_path / "sd3.safetensors", {**SHAPES["sd35-large"], **inside}), name="x"
    )
    assert find_further(sd3, search(tmp_path)).notices == ()
    flux = inspect_base(safetensors(tmp_path / "all.safetensors", {**FLUX, **inside}), name="x")
    missing = [each.text for each in find_further(flux, search(tmp_path)).notices]
    assert [any(name in each for each in missing) for name in ("CLIP-L", "T5-XXL")] == [True, True]

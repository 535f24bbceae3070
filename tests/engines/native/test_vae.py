"""The VAE's encoder gives the bits of diffusers' own, from every layout of its weights."""

from collections.abc import Mapping

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file
from torch import Tensor

from tenner.base.tiny import base_dir
from tenner.core.json_text import read_object
from tenner.engines.native.vae import VaeEncoder, checkpoint_vae

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def diffusers_vae(**config: object) -> AutoencoderKL:
    torch.manual_seed(2)
    shape: dict[str, object] = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 2,
        "norm_num_groups": 4,
    }
    vae = AutoencoderKL(**(shape | config)).eval()
    for name, value in vae.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(value, 1.0, 0.3)
    return vae


def same_bits(vae: AutoencoderKL, weights: Mapping[str, Tensor]) -> None:
    ours = VaeEncoder(dict(vae.config), weights)
    for height, width in ((32, 32), (24, 40)):
        pixels = torch.rand(2, 3, height, width) * 2 - 1
        with torch.no_grad():
            theirs = vae.encode(pixels).latent_dist
        mean, std = ours.encode(pixels)
        assert torch.equal(mean, theirs.mean)
        assert torch.equal(std, theirs.std)


@pytest.mark.parametrize(
    "config",
    [{}, {"mid_block_add_attention": False}, {"use_quant_conv": False}, {"layers_per_block": 1}],
    ids=str,
)
def test_it_gives_the_bits_of_diffusers(config: dict[str, object]) -> None:
    vae = diffusers_vae(**config)
    same_bits(vae, vae.state_dict())


def test_half_precision_weights_are_computed_in_full() -> None:
    vae = diffusers_vae().half()
    weights = vae.state_dict()
    same_bits(vae.float(), weights)


def test_the_attention_of_older_folders_is_read() -> None:
    vae = diffusers_vae()
    weights: dict[str, Tensor] = {}
    for name, value in vae.state_dict().items():
        for now, then in OLD.items():
            name = name.replace(f"attentions.0.{now}.", f"attentions.0.{then}.")
        weights[name] = value
    assert any("proj_attn" in name for name in weights)
    same_bits(vae, weights)


def original_names(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The encoder in the layout of checkpoints, renamed here by hand."""
    found: dict[str, Tensor] = {}
    for name, value in vae.state_dict().items():
        if not name.startswith("decoder."):
            for now, then in (
                ("down_blocks.", "down."),
                (".resnets.", ".block."),
                (".downsamplers.0.", ".downsample."),
                ("mid_block.block.0", "mid.block_1"),
                ("mid_block.block.1", "mid.block_2"),
                ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
                ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
                ("mid_block.attentions.0.to_", "mid.attn_1."),
                ("conv_norm_out", "norm_out"),
                ("conv_shortcut", "nin_shortcut"),
            ):
                name = name.replace(now, then)
            is_matrix = ".attn_1." in name and value.ndim == 2
            found[name] = value[:, :, None, None] if is_matrix else value
    return found


def test_a_checkpoint_is_read_under_the_names_that_diffusers_gives_it() -> None:
    vae = diffusers_vae()
    original = original_names(vae)
    theirs = convert_ldm_vae_checkpoint(dict(original), dict(vae.config))
    assert set(checkpoint_vae(original)) == set(theirs) - {"post_quant_conv"}
    same_bits(vae, checkpoint_vae(original))


def test_the_tiny_base_s_encoder_is_read() -> None:
    folder = base_dir() / "vae"
    vae = AutoencoderKL.from_pretrained(folder, local_files_only=True).eval()
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert VaeEncoder(read_object(folder / "config.json"), weights).scaling_factor == 1.8
    same_bits(vae, weights)


def test_missing_tensors_and_other_architectures_are_named() -> None:
    vae = diffusers_vae()
    weights = vae.state_dict()
    del weights["encoder.mid_block.attentions.0.to_k.bias"]
    with pytest.raises(KeyError, match=r"mid_block\.attentions\.0\.to_k\.bias"):
        VaeEncoder(dict(vae.config), weights)
    other = dict(vae.config) | {"down_block_types": ["DCDownBlock2d"]}
    with pytest.raises(ValueError, match="DCDownBlock2d"):
        VaeEncoder(other, vae.state_dict())

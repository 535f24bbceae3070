"""The tiny base's VAE: an `AutoencoderKL` whose weights are written down, not learnt.

The pictures are pixel art of 4 x 4 blocks, so a latent can simply be its block's colour: the
encoder averages blocks, the decoder repeats them. A convolutional VAE can do that exactly:

- the residual blocks add nothing (their last convolution is zero);
- SiLU is undone by carrying every value twice, as x and as -x: silu(x) - silu(-x) = x;
- GroupNorm would divide by the picture's own contrast, so two constant channels of +256 and -256
  stand in the same group: the group's deviation is then theirs, to within 3e-5, whatever the
  picture is, and the norm's weight takes it out again.
"""

import math

import torch
from diffusers import AutoencoderKL
from torch import nn

from .model import LATENTS_SCALE

LARGE = 256.0
WIDTH = 8  # +R -R +G -G +B -B +LARGE -LARGE


def build_vae() -> AutoencoderKL:
    """64 x 64 pixels to 16 x 16 latents: red, green, blue and their mean."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(WIDTH,) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=64,
        scaling_factor=LATENTS_SCALE,
        mid_block_add_attention=False,
    )
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
                module.bias.zero_()
        _write_encoder(vae)
        _write_decoder(vae)
    return vae.eval()


def _write_encoder(vae: AutoencoderKL) -> None:
    encoder = vae.encoder
    _spread(encoder.conv_in, num_colours=3)
    for block in encoder.down_blocks:
        for downsampler in block.downsamplers or ():
            # Its input is padded at the right and below: the kernel's first 2 x 2 are the block.
            for channel in range(WIDTH):
                downsampler.conv.weight[channel, channel, :2, :2] = 0.25
    _undo_norm(encoder.conv_norm_out)
    for colour in range(3):
        _take(encoder.conv_out, colour, colour)
        _take(encoder.conv_out, 3, colour, share=1 / 3)
    encoder.conv_out.bias[4:] = -30.0  # the logarithm of the variance: none
    _identity(vae.quant_conv)


def _write_decoder(vae: AutoencoderKL) -> None:
    decoder = vae.decoder
    _identity(vae.post_quant_conv)
    _spread(decoder.conv_in, num_colours=3)
    for block in decoder.up_blocks:
        for upsampler in block.upsamplers or ():
            _identity(upsampler.conv)
    _undo_norm(decoder.conv_norm_out)
    for colour in range(3):
        _take(decoder.conv_out, colour, colour)


def _spread(conv: nn.Conv2d, *, num_colours: int) -> None:
    """Each colour as x and -x, and the two large constants."""
    middle = conv.kernel_size[0] // 2
    for colour in range(num_colours):
        conv.weight[2 * colour, colour, middle, middle] = 1.0
        conv.weight[2 * colour + 1, colour, middle, middle] = -1.0
    conv.bias[WIDTH - 2], conv.bias[WIDTH - 1] = LARGE, -LARGE


def _take(conv: nn.Conv2d, to: int, colour: int, share: float = 1.0) -> None:
    """silu(x) - silu(-x) = x."""
    middle = conv.kernel_size[0] // 2
    conv.weight[to, 2 * colour, middle, middle] = share
    conv.weight[to, 2 * colour + 1, middle, middle] = -share


def _identity(conv: nn.Conv2d) -> None:
    middle = conv.kernel_size[0] // 2
    for channel in range(conv.in_channels):
        conv.weight[channel, channel, middle, middle] = 1.0


def _undo_norm(norm: nn.GroupNorm) -> None:
    norm.weight.fill_(LARGE * math.sqrt(2 / WIDTH))
    norm.bias.zero_()

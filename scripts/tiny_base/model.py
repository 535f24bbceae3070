"""The tiny base's parts: a Stable Diffusion 1.x in miniature (text encoder, U-Net, scheduler).

Sizes follow what two CPU cores can train in an hour. v-prediction with zero terminal SNR, because
epsilon-prediction never got flat backgrounds right at this size.
"""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .sprites import CELLS, Cells

TEXT_WIDTH = 64
LATENTS_SCALE = 1.8  # makes the latents' standard deviation about 1


class TextToLatents(nn.Module):
    """Text encoder and U-Net, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(tokenizer)
        self.unet = build_unet()

    def forward(
        self, noisy_BCHW: torch.Tensor, timestep_B: torch.Tensor, tokens_BT: torch.Tensor
    ) -> torch.Tensor:
        """Predicted velocity, shaped as the latents."""
        words_BTD = self.text_encoder(input_ids=tokens_BT).last_hidden_state
        return self.unet(noisy_BCHW, timestep_B, encoder_hidden_states=words_BTD).sample


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=CELLS,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, (captions, 77)."""
    batch = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    return batch.input_ids


def latents_of(cells: list[Cells]) -> torch.Tensor:
    """What the VAE's encoder gives for these pictures, scaled: (B, 4, 16, 16).

    The VAE is a pass-through (see `vae.py`): a latent is its 4 x 4 block's mean colour and the
    mean of that, so latents need no VAE at all while the U-Net learns.
    """
    rgb_BHWC = torch.stack([torch.from_numpy(grid) for grid in cells]).float() / 127.5 - 1
    latents_BHWC = torch.cat([rgb_BHWC, rgb_BHWC.mean(-1, keepdim=True)], dim=-1)
    return latents_BHWC.permute(0, 3, 1, 2).contiguous() * LATENTS_SCALE

"""A tiny random FLUX.1 pipeline of diffusers, with a LoRA."""

from typing import Any

import diffusers
import torch
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WIDTH = 32


def words() -> PreTrainedTokenizerFast:
    made = Tokenizer(WordLevel({"<pad>": 0, "a": 1, "star": 2, "<unk>": 3}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", model_max_length=16
    )


def open_tiny_flux() -> Any:
    """On the CPU, in float32, with a LoRA named `tenner` that changes the picture."""
    torch.manual_seed(0)
    library: Any = diffusers
    clip: Any = CLIPTextConfig
    t5: Any = T5Config
    pipe = library.FluxPipeline(
        scheduler=library.FlowMatchEulerDiscreteScheduler(),
        vae=library.AutoencoderKL(
            block_out_channels=(WIDTH,),
            latent_channels=4,
            norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            shift_factor=0.1,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModel(
            clip(
                vocab_size=4,
                hidden_size=WIDTH,
                intermediate_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=16,
                eos_token_id=2,
            )
        ),
        tokenizer=words(),
        text_encoder_2=T5EncoderModel(
            t5(vocab_size=4, d_model=WIDTH, d_kv=16, d_ff=WIDTH, num_layers=1, num_heads=2)
        ),
        tokenizer_2=words(),
        transformer=library.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    layers = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "proj_mlp"])
    pipe.transformer.add_adapter(layers, adapter_name="tenner")
    for name, each in pipe.transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each, std=5.0)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe


def picture(pipe: Any) -> torch.Tensor:
    """Numbers from 0 to 1, of the shape (height, width, 3)."""
    drawn = pipe(
        "a star",
        width=32,
        height=32,
        num_inference_steps=2,
        max_sequence_length=8,
        generator=torch.Generator("cpu").manual_seed(1),
        output_type="np",
    )
    return torch.from_numpy(drawn.images[0])

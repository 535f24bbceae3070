"""Stable Diffusion 1.x."""

from tenner.core.messages import msg
from tenner.families.facts import (
    Default,
    Drawing,
    FamilyDefaults,
    FamilyFacts,
    KnownBase,
    Shapes,
)

GUIDE = "the guide that this program follows"

DEFAULTS = FamilyDefaults(
    bucket_reso_steps=Default(
        value=64,
        reason=msg("the U-Net halves its map three times, from latents of 8 pixels"),
        source="sd-scripts, docs/config_README-en.md: bucket_reso_steps 64",
    ),
    finest_step=64,
    network_train_unet_only=Default(
        value=False,
        reason=msg("the one text encoder learns the trigger"),
        source=GUIDE,
    ),
    text_encoder_lr_share=Default(
        value=0.5, reason=msg("half of learning_rate, the guide's"), source=GUIDE
    ),
    noise_offset=Default(
        value=None,
        reason=msg("the base was trained without"),
        source="CompVis stable-diffusion, v1-training configuration",
    ),
    clip_skip=Default(
        value=None,
        reason=msg("the base was trained on the text encoder's last layer"),
        source="CompVis stable-diffusion, FrozenCLIPEmbedder",
    ),
    no_half_vae=Default(
        value=False,
        reason=msg("its values stay within half precision"),
        source="sd-scripts, docs/train_network.md",
    ),
    rank=Default(value=32, reason="the guide's", source=GUIDE),
)


def is_unet_with(text_encoder: str, shapes: Shapes) -> bool:
    """Whether a checkpoint holds a U-Net, and tensors that begin with `text_encoder`."""
    beginnings = (text_encoder, "model.diffusion_model.")
    return all(any(name.startswith(each) for name in shapes) for each in beginnings)


SD1 = FamilyFacts(
    name="sd1",
    title=msg("Stable Diffusion 1.x"),
    script="train_network.py",
    lora_module="networks.lora",
    side=512,
    defaults=DEFAULTS,
    recognises=lambda shapes: is_unet_with("cond_stage_model.transformer.", shapes),
    diffusers_class="UNet2DConditionModel",
    drawing=Drawing(pipeline="StableDiffusionPipeline"),
    trainers=("sd-scripts", "native"),
    bases=(
        KnownBase(
            name="sd15",
            hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
            family="sd1",
            licence="creativeml-openrail-m",
            revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            file="v1-5-pruned-emaonly.safetensors",
            sha256="6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
            other_names=("sd1.5", "sd-1.5", "runwayml/stable-diffusion-v1-5"),
            files=(
                "v1-5-pruned.safetensors",
                "v1-5-pruned-emaonly.safetensors",
                "v1-5-pruned.ckpt",
                "v1-5-pruned-emaonly.ckpt",
            ),
        ),
    ),
)

"""Stable Diffusion 2.x."""

from tenner.core.messages import msg
from tenner.families import sd1
from tenner.families.facts import Default, Drawing, FamilyDefaults, FamilyFacts

DEFAULTS = FamilyDefaults(
    bucket_reso_steps=sd1.DEFAULTS.bucket_reso_steps,
    finest_step=64,
    network_train_unet_only=sd1.DEFAULTS.network_train_unet_only,
    text_encoder_lr_share=sd1.DEFAULTS.text_encoder_lr_share,
    noise_offset=Default(
        value=None,
        reason=msg("the base was trained without"),
        source="Stability-AI stablediffusion, configs/stable-diffusion/v2-inference-v.yaml",
    ),
    clip_skip=Default(
        value=None,
        reason=msg("the base was trained on the last layer but one, which its configuration names"),
        source="Stability-AI stablediffusion, v2-inference-v.yaml: layer penultimate",
    ),
    no_half_vae=sd1.DEFAULTS.no_half_vae,
    rank=sd1.DEFAULTS.rank,
)

SD2 = FamilyFacts(
    name="sd2",
    title=msg("Stable Diffusion 2.x"),
    script="train_network.py",
    lora_module="networks.lora",
    side=768,
    defaults=DEFAULTS,
    recognises=lambda shapes: sd1.is_unet_with("cond_stage_model.model.", shapes),
    diffusers_class="UNet2DConditionModel",
    drawing=Drawing(pipeline="StableDiffusionPipeline"),
    trainers=("sd-scripts", "native"),
)

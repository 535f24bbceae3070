"""Stable Diffusion XL, and the well-known models that were made from it.

What their authors recommend, and where it was read:

- Pony Diffusion V6 XL, civitai.com/models/257749: clip skip 2, else "low quality blobs", and the
  whole row from score_9 to score_4_up before the prompt; it has no advice on training LoRAs.
- Illustrious, the page of v1.0 on the Hub: pictures from 512 to 1536 pixels, Danbooru's tags and
  plain language. The page of v2.0 names no settings.
- NoobAI, the pages of its v-prediction models on the Hub: full Danbooru and e621 with their own
  tags, and another prediction than its epsilon models. That the file has zero terminal SNR is
  written in it (its tensors `v_pred` and `ztsnr`).

Rates, ranks and optimizers for LoRAs were found on none of these pages: they train with SDXL's
defaults, as sd-scripts' guide has them.
"""

from tenner.core.messages import msg
from tenner.families import sd1
from tenner.families.facts import Default, Drawing, FamilyDefaults, FamilyFacts, KnownBase

DEFAULTS = FamilyDefaults(
    bucket_reso_steps=Default(
        value=32,
        reason=msg("the U-Net halves its map twice: finer steps, and less is cropped"),
        source="sd-scripts, docs/train_SDXL-en.md: 32 instead of 64, no less",
    ),
    finest_step=32,
    network_train_unet_only=Default(
        value=True,
        reason=msg("with two text encoders the result of training them is hard to foresee"),
        source="sd-scripts, docs/train_SDXL-en.md: network_train_unet_only highly recommended",
    ),
    text_encoder_lr_share=Default(
        value=0.1,
        reason=msg("a tenth of learning_rate, as in sd-scripts' guide to SDXL"),
        source="sd-scripts, docs/sdxl_train_network.md: 1e-5 beside 1e-4",
    ),
    noise_offset=Default(
        value=0.0357,
        reason=msg("the base was trained with it"),
        source="sd-scripts, library/sdxl_train_util.py; SDXL's report (arXiv 2307.01952)"
        " names 0.05 for the base's last stage",
    ),
    clip_skip=Default(
        value=None,
        reason=msg("SDXL always takes the last layer but one of both text encoders"),
        source="sd-scripts, library/sdxl_train_util.py",
    ),
    no_half_vae=Default(
        value=True,
        reason=msg("SDXL's VAE overflows in half precision"),
        source="sd-scripts, docs/train_SDXL-en.md: no_half_vae",
    ),
    rank=Default(
        value=32,
        reason=msg("as in sd-scripts' guide to SDXL"),
        source="sd-scripts, docs/sdxl_train_network.md: network_dim 32",
    ),
)

SDXL = FamilyFacts(
    name="sdxl",
    title=msg("Stable Diffusion XL"),
    script="sdxl_train_network.py",
    lora_module="networks.lora",
    side=1024,
    defaults=DEFAULTS,
    recognises=lambda shapes: sd1.is_unet_with("conditioner.embedders.1.model.", shapes),
    diffusers_class="UNet2DConditionModel",
    drawing=Drawing(pipeline="StableDiffusionXLPipeline"),
    trainers=("sd-scripts", "native"),
    name_patterns="xl|pony|illustrious|noob",
    bases=(
        KnownBase(
            name="sdxl",
            hub_id="stabilityai/stable-diffusion-xl-base-1.0",
            family="sdxl",
            licence="openrail++",
            revision="462165984030d82259a11f4367a4eed129e94a7b",
            file="sd_xl_base_1.0.safetensors",
            sha256="31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
            other_names=("sdxl1.0", "sdxl-base"),
            files=("sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors"),
        ),
        KnownBase(
            name="illustrious",
            hub_id="OnomaAIResearch/Illustrious-XL-v2.0",
            family="sdxl",
            licence="openrail++",
            revision="69459c1fe6f46db41ab31e6114f05acc0e06bcaa",
            file="Illustrious-XL-v2.0.safetensors",
            sha256="c2a1a3eaa13d4c107dc7e00c3fe830cab427aa026362740ea094745b3422a331",
            other_names=("illustrious-xl",),
            files=("illustrious-xl-v2.0.safetensors",),
            advice=msg(
                "Illustrious learnt Danbooru's tags, separated by commas; its report trains up to"
                " 1536 pixels (arXiv 2409.19946)"
            ),
        ),
        KnownBase(
            name="noobai",
            hub_id="Laxhar/noobai-XL-1.1",
            family="sdxl",
            licence="fair-ai-public-license-1.0-sd, not commercial",
            is_commercial=False,
            revision="814a274af2b8097c0828819d561ec74c7d0c6cea",
            file="NoobAI-XL-v1.1.safetensors",
            sha256="6681e8e4b134c81f16533acedb0d406d7e5e366e1624b4105178c64d00b05d51",
            other_names=("noobai-xl", "noobai-eps"),
            files=("noobai-xl-v1.1.safetensors",),
            advice=msg("NoobAI learnt Danbooru's and e621's tags, separated by commas"),
        ),
        KnownBase(
            name="noobai-vpred",
            hub_id="Laxhar/noobai-XL-Vpred-1.0",
            family="sdxl",
            licence="fair-ai-public-license-1.0-sd, not commercial",
            is_commercial=False,
            revision="main",
            file="NoobAI-XL-Vpred-v1.0.safetensors",
            sha256="ea349eeae87ca8d25ba902c93810f7ca83e5c82f920edf12f273af004ae02819",
            files=("noobai-xl-vpred-v1.0.safetensors",),
            advice=msg(
                "NoobAI's v-prediction needs v_parameterization and zero_terminal_snr, which are"
                " set by themselves (its tensors v_pred and ztsnr)"
            ),
        ),
        KnownBase(
            name="pony",
            hub_id="AstraliteHeart/pony-diffusion-v6",
            family="sdxl",
            licence="creativeml-openrail-m",
            revision="5ec9c05863255568f1b59753e3838107befaa712",
            file="v6.safetensors",
            sha256="67ab2fd8ec439a89b3fedb15cc65f54336af163c7eb5e4f2acc98f090a29b0b3",
            other_names=("pony-v6", "pony-xl", "ponyxl"),
            files=("ponydiffusionv6xl_v6startwiththisone.safetensors",),
            advice=msg(
                "Pony Diffusion V6 needs clip skip 2, which SDXL's training always has, and prompts"
                " that begin with score_9, score_8_up, score_7_up, score_6_up, score_5_up,"
                " score_4_up (its page on Civitai)"
            ),
        ),
    ),
)

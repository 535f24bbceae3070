"""Stable Diffusion 3 and 3.5.

The single files of 3.5 hold the transformer and the VAE; text encoders may be in the file or beside
it. Sizes are counts of the models' tensors (widths 1,536 and 2,432; 24 and 38 joint blocks). No
measurement of their training is published with its settings: what an image takes is FLUX.1's, by
tokens, width and blocks, and the time by counted work.
"""

from dataclasses import replace

from tenner.core.messages import msg
from tenner.families import transformers
from tenner.families.facts import (
    Blocks,
    Drawing,
    FamilyFacts,
    KnownBase,
    Licence,
    Shapes,
    Transformer,
    Variant,
)

_DOCS = "sd-scripts, docs/sd3_train_network.md"
_LICENCE = Licence(
    name="Stability AI Community License",
    url="https://huggingface.co/stabilityai/stable-diffusion-3.5-large/blob/main/LICENSE.md",
    note=msg(
        "Stable Diffusion 3 and 3.5 are free for research and for those who earn less than"
        " $1,000,000 a year; others need a licence of Stability AI's"
    ),
)


def _kind(shapes: Shapes) -> str:
    """`3`, `3.5-medium` or `3.5-large`, by sd-scripts' names; empty for anything else."""
    if not transformers.has_tensors(shapes, "joint_blocks.0.x_block.attn.qkv.weight"):
        return ""
    if not transformers.has_tensors(shapes, "joint_blocks.0.context_block.attn.ln_k.weight"):
        return "3"
    has_second = transformers.has_tensors(shapes, "joint_blocks.0.x_block.attn2.ln_k.weight")
    return "3.5-medium" if has_second else "3.5-large"


def _is_medium(shapes: Shapes) -> bool:
    return _kind(shapes) == "3.5-medium"


def _is_large(shapes: Shapes) -> bool:
    return _kind(shapes) == "3.5-large"


SD3 = FamilyFacts(
    name="sd3",
    title="Stable Diffusion 3",
    script="sd3_train_network.py",
    lora_module="networks.lora_sd3",
    side=1024,
    defaults=transformers.defaults(steps=64, rank=16, source=_DOCS),
    recognises=lambda shapes: _kind(shapes) == "3",
    diffusers_class="SD3Transformer2DModel",
    diffusers_config={"qk_norm": None, "num_layers": 24},
    drawing=Drawing(
        pipeline="StableDiffusion3Pipeline",
        steps=28,
        guidance=7.0,
        is_converted=True,
        source="the model's page: 28 steps, 7.0",
    ),
    files=(
        replace(transformers.CLIP_L_FILE, inside="text_encoders.clip_l."),
        replace(transformers.CLIP_G_FILE, inside="text_encoders.clip_g."),
        replace(transformers.T5_FILE, inside="text_encoders.t5xxl."),
    ),
    options=transformers.proposed(
        _DOCS, weighting_scheme=("uniform", msg("sd-scripts' own for this family"))
    ),
    without=transformers.WITHOUT,
    transformer=Transformer(
        parameters=2.03e9,
        blocks=Blocks(parameters=(84.0,), numbers=(24,)),
        lora_per_dim=1_695_744,
        text_gb=11.16,
        text_lora_per_dim=903_168,
        activations_gb=11.0,
        checkpointed_gb=0.8,
        step_tflop=(18.7, 27.6),
        forward_tflop=8.9,
        sources=(_DOCS,),
    ),
    licence=_LICENCE,
    tokenizers=(transformers.CLIP_L, transformers.CLIP_G, transformers.T5_XXL),
    trainer_files=transformers.T5_CONFIG,
    lycoris_passes_over=transformers.NOT_ITS_ATTENTION,
    name_patterns=r"sd[-_ ]?3(?![.\d])|stable[-_ ]diffusion[-_ ]3[-_ ]",
    lora_widths=(1536,),
    bases=(
        KnownBase(
            name="sd3",
            hub_id="stabilityai/stable-diffusion-3-medium",
            family="sd3",
            licence="stabilityai-ai-community",
            revision="main",
            file="sd3_medium.safetensors",
            sha256="cc236278d28c8c3eccb8e21ee0a67ebed7dd6e9ce40aa9de914fa34e8282f191",
            other_names=("sd3-medium",),
            files=("sd3_medium.safetensors",),
            is_gated=True,
        ),
    ),
)

SD35_MEDIUM = replace(
    SD3,
    name="sd35-medium",
    title="Stable Diffusion 3.5 Medium",
    recognises=_is_medium,
    diffusers_config={"num_layers": 24, "qk_norm": "rms_norm"},
    drawing=replace(SD3.drawing, steps=40, guidance=4.5, source="the model's page: 40 steps, 4.5"),
    transformer=Transformer(
        parameters=2.47e9,
        blocks=Blocks(parameters=(93.0,), numbers=(24,)),
        lora_per_dim=1_875_000,
        text_gb=11.16,
        text_lora_per_dim=903_168,
        activations_gb=12.4,
        checkpointed_gb=0.8,
        step_tflop=(23.7, 35.0),
        forward_tflop=11.3,
        sources=(_DOCS,),
    ),
    name_patterns=r"(?:sd|diffusion)[-_ ]?3\.?5.*medium",
    bases=(
        KnownBase(
            name="sd35-medium",
            hub_id="stabilityai/stable-diffusion-3.5-medium",
            family="sd35-medium",
            licence="stabilityai-ai-community",
            revision="b940f670f0eda2d07fbb75229e779da1ad11eb80",
            file="sd3.5_medium.safetensors",
            sha256="11fe06e22364b823dfeedc275912336b932b32a293a0b2f35ffac071990cc4de",
            other_names=("sd3.5-medium",),
            files=("sd3.5_medium.safetensors",),
            is_gated=True,
        ),
    ),
)

SD35_LARGE = replace(
    SD3,
    name="sd35-large",
    title="Stable Diffusion 3.5 Large",
    recognises=_is_large,
    diffusers_config={"num_layers": 38},
    variants=(
        Variant(
            names="turbo",
            what=msg("Stable Diffusion 3.5 Large Turbo by its name, distilled to four steps"),
            fix=msg("train on sd3.5_large.safetensors"),
        ),
    ),
    drawing=replace(SD3.drawing, guidance=3.5, source="the model's page: 28 steps, 3.5"),
    transformer=Transformer(
        parameters=8.06e9,
        blocks=Blocks(parameters=(211.0,), numbers=(38,)),
        lora_per_dim=4_251_136,
        text_gb=11.16,
        text_lora_per_dim=903_168,
        activations_gb=28.0,
        checkpointed_gb=1.5,
        step_tflop=(65.0, 97.0),
        forward_tflop=31.2,
        sources=(_DOCS,),
    ),
    name_patterns=r"(?:sd|diffusion)[-_ ]?3\.?5",
    lora_widths=(2432,),
    bases=(
        KnownBase(
            name="sd35-large",
            hub_id="stabilityai/stable-diffusion-3.5-large",
            family="sd35-large",
            licence="stabilityai-ai-community",
            revision="ceddf0a7fdf2064ea28e2213e3b84e4afa170a0f",
            file="sd3.5_large.safetensors",
            sha256="ffef7a279d9134626e6ce0d494fba84fc1c7e720b3c7df2d19a09dc3796d8f93",
            other_names=("sd35", "sd3.5", "sd3.5-large"),
            files=("sd3.5_large.safetensors",),
            is_gated=True,
        ),
    ),
)

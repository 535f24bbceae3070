"""FLUX.1 dev and schnell, and Chroma, which was made from schnell.

Sizes are counts of the models' tensors: 19 double and 38 single blocks of width 3,072. What an
image takes with gradient checkpointing is fitted to what sd-scripts' guide names for 8, 10 and
12 GB (`docs/flux_train_network.md`, 6.1: blocks_to_swap 28, 22 and 16 with fp8_base) and holds for
"over 26 GB" in bf16 (kohya-ss/misc-models, flux-hasui). Without it activations are counted, not
measured. The share of the peak is between two published speeds that differ much: 8.25 s a step on
an RTX A6000 (sd-scripts pull request 1374) and 7.1 s on an RTX 5060 Ti 16 GB
(LoRA_Easy_Training_Scripts issue 344).
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
    TextInComfyui,
    Transformer,
    Variant,
)
from tenner.families.transformers import has_tensors

_DOCS = "sd-scripts, docs/flux_train_network.md"
_SOURCES = (
    _DOCS,
    "https://github.com/kohya-ss/sd-scripts/pull/1374",
    "https://huggingface.co/kohya-ss/misc-models",
)
_ATTENTION = "double_blocks.0.img_attn.qkv.weight"


def _is_chroma(shapes: Shapes) -> bool:
    return has_tensors(shapes, _ATTENTION, "distilled_guidance_layer.in_proj.weight")


def _is_hunyuan(shapes: Shapes) -> bool:
    return has_tensors(shapes, "byt5_in.fc1.weight")


def _is_dev(shapes: Shapes) -> bool:
    return has_tensors(shapes, _ATTENTION, "guidance_in.in_layer.weight")


def _is_schnell(shapes: Shapes) -> bool:
    others = _is_dev(shapes) or _is_chroma(shapes) or _is_hunyuan(shapes)
    return has_tensors(shapes, _ATTENTION) and not others


def _edits(shapes: Shapes) -> bool:
    """Whether the model's input holds more than the 64 channels of the picture itself."""
    shape = transformers.tensor_shape(shapes, "img_in.weight")
    return shape is not None and shape[-1:] != [64]


_VARIANTS = (
    Variant(
        has=_edits,
        what=msg("a FLUX.1 model for editing or control (Fill, Canny, Depth), not FLUX.1 itself"),
        fix=msg("train on flux1-dev.safetensors"),
    ),
    Variant(
        names="kontext",
        what=msg("FLUX.1 Kontext by its name, which edits pictures: sd-scripts has no such pairs"),
        fix=msg("train on flux1-dev.safetensors"),
    ),
)
_FILES = (transformers.CLIP_L_FILE, transformers.T5_FILE, transformers.AE_FILE)

FLUX = FamilyFacts(
    name="flux",
    title="FLUX.1 dev",
    script="flux_train_network.py",
    lora_module="networks.lora_flux",
    side=1024,
    defaults=transformers.defaults(steps=64, rank=16, source=_DOCS),
    recognises=_is_dev,
    diffusers_class="FluxTransformer2DModel",
    diffusers_config={"guidance_embeds": True},
    variants=_VARIANTS,
    drawing=Drawing(
        pipeline="FluxPipeline",
        has_trainers_model=True,
        steps=28,
        guidance=3.5,
        takes_negative=False,
        source="the model's page: 3.5, 50 steps",
    ),
    files=_FILES,
    options=transformers.proposed(
        _DOCS,
        guidance_scale=(1.0, msg("no distilled guidance while training")),
        timestep_sampling=("flux_shift", msg("recommended: shifted by the picture's size")),
        model_prediction_type=("raw", msg("recommended: the prediction as it is")),
    ),
    without=transformers.WITHOUT,
    transformer=Transformer(
        parameters=11.90e9,
        blocks=Blocks(parameters=(339.8, 141.6), numbers=(19, 38)),
        lora_per_dim=4_786_176,
        text_gb=9.77,
        text_lora_per_dim=165_888,
        activations_gb=37.0,
        checkpointed_gb=2.3,
        step_tflop=(156.0, 238.0),
        forward_tflop=74.4,
        sources=_SOURCES,
    ),
    licence=Licence(
        name="FLUX.1 [dev] Non-Commercial License",
        url="https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
        note=msg(
            "FLUX.1 [dev] is not for commercial use, and a LoRA made from it is a derivative under"
            " the same licence"
        ),
        is_commercial=False,
    ),
    tokenizers=(transformers.CLIP_L, transformers.T5_XXL),
    trainer_files=transformers.T5_CONFIG,
    lycoris_passes_over=transformers.CONVOLUTIONS_ALONE,
    name_patterns=r"flux(?![.\-_]?2)(?!.*schnell)",
    bases=(
        KnownBase(
            name="flux-dev",
            hub_id="black-forest-labs/FLUX.1-dev",
            family="flux",
            licence="flux-1-dev-non-commercial-license",
            revision="3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
            file="flux1-dev.safetensors",
            sha256="4610115bb0c89560703c892c59ac2742fa821e60ef5871b33493ba544683abd7",
            other_names=("flux", "flux1-dev", "flux.1-dev"),
            files=("flux1-dev.safetensors", "flux1-dev.sft"),
            is_gated=True,
        ),
    ),
)

SCHNELL = replace(
    FLUX,
    name="flux-schnell",
    title="FLUX.1 schnell",
    recognises=_is_schnell,
    diffusers_config={"guidance_embeds": False},
    drawing=Drawing(
        pipeline="FluxPipeline",
        has_trainers_model=True,
        steps=4,
        guidance=0.0,
        takes_negative=False,
        source="the model's page: 4 steps, 0",
    ),
    licence=Licence(
        name="Apache License 2.0",
        url="https://huggingface.co/black-forest-labs/FLUX.1-schnell",
    ),
    lora_family="flux",
    name_patterns=r"flux.*schnell",
    bases=(
        KnownBase(
            name="flux-schnell",
            hub_id="black-forest-labs/FLUX.1-schnell",
            family="flux-schnell",
            licence="apache-2.0",
            revision="741f7c3ce8b383c54771c7003378a50191e9efe9",
            file="flux1-schnell.safetensors",
            sha256="9403429e0052277ac2a87ad800adece5481eecefd9ed334e1f348723621d2a0a",
            other_names=("flux1-schnell", "flux.1-schnell"),
            files=("flux1-schnell.safetensors", "flux1-schnell.sft"),
            is_gated=True,
        ),
    ),
)

_CHROMA_DOCS = f"{_DOCS}: Training Chroma Models"

CHROMA = replace(
    FLUX,
    name="chroma",
    title="Chroma",
    recognises=_is_chroma,
    diffusers_class="ChromaTransformer2DModel",
    diffusers_config={},
    variants=(),
    drawing=Drawing(
        pipeline="ChromaPipeline",
        has_trainers_model=True,
        steps=40,
        guidance=3.0,
        source="the model's page: 3.0, 40 steps",
    ),
    files=(transformers.T5_FILE, transformers.AE_FILE),
    options=transformers.proposed(
        _CHROMA_DOCS,
        timestep_sampling=("sigmoid", msg("recommended for Chroma")),
        model_prediction_type=("raw", msg("recommended: the prediction as it is")),
    ),
    required={"model_type": "chroma", "guidance_scale": 0.0, "apply_t5_attn_mask": True},
    without={
        **transformers.WITHOUT,
        "clip_l": msg("it has no CLIP"),
        "cpu_offload_checkpointing": msg("sd-scripts has it for FLUX.1 alone"),
    },
    transformer=Transformer(
        parameters=8.90e9,
        blocks=Blocks(parameters=(226.6, 113.3), numbers=(19, 38)),
        lora_per_dim=3_502_080,
        text_gb=9.52,
        activations_gb=35.0,
        checkpointed_gb=2.3,
        step_tflop=(156.0, 238.0),
        forward_tflop=74.4,
        sources=_SOURCES,
    ),
    licence=Licence(
        name="Apache License 2.0", url="https://huggingface.co/lodestones/Chroma1-Base"
    ),
    tokenizers=(transformers.CLIP_L, transformers.T5_XXL),
    trainer_files=transformers.T5_CONFIG,
    text_in_comfyui=(
        TextInComfyui(
            argument="train_t5xxl",
            text=msg(
                "ComfyUI does not load what is trained of Chroma's T5, whose modules sd-scripts"
                " names lora_te3 and ComfyUI lora_te1"
            ),
            fix=msg("remove train_t5xxl, or rename lora_te3 to lora_te1 in the file afterwards"),
        ),
    ),
    name_patterns="chroma",
    bases=(
        KnownBase(
            name="chroma",
            hub_id="lodestones/Chroma1-Base",
            family="chroma",
            licence="apache-2.0",
            revision="main",
            file="Chroma1-Base.safetensors",
            sha256="504e32fe23976cfd317fd388401c51e70f424fec7f94195abb0ced0972898baf",
            other_names=("chroma1-base",),
            files=("chroma1-base.safetensors",),
        ),
    ),
)

"""Anima, a model of 2 B numbers with Qwen3 0.6B as its text encoder.

Sizes are counts of the model's tensors: 28 blocks of width 2,048. Its training's memory and time
are published nowhere with the settings: by tokens, width and blocks after FLUX.1's.
"""

from tenner.core.messages import msg
from tenner.families import transformers
from tenner.families.facts import (
    Blocks,
    Drawing,
    FamilyFacts,
    FurtherFile,
    KnownBase,
    Licence,
    Transformer,
)

_DOCS = "sd-scripts, docs/anima_train_network.md"
_REPO = "circlestone-labs/Anima"

ANIMA = FamilyFacts(
    name="anima",
    title="Anima",
    script="anima_train_network.py",
    lora_module="networks.lora_anima",
    side=1024,
    defaults=transformers.defaults(steps=64, rank=8, source=_DOCS, text_trained=False),
    recognises=lambda shapes: transformers.has_tensors(
        shapes, "blocks.0.adaln_modulation_self_attn.1.weight", "llm_adapter.out_proj.weight"
    ),
    diffusers_class="",
    drawing=Drawing(
        pipeline="",
        has_trainers_model=True,
        steps=30,
        guidance=4.0,
        source="the model's page: 30 steps, 4 to 5",
    ),
    files=(
        FurtherFile(
            option="qwen3",
            title=msg("the text encoder Qwen3 0.6B"),
            mark="model.layers.27.self_attn.q_norm.weight",
            hub_id=_REPO,
            revision="main",
            file="split_files/text_encoders/qwen_3_06b_base.safetensors",
            sha256="cd2a512003e2f9f3cd3c32a9c3573f820bb28c940f73c57b1ddaa983d9223eba",
            gb=1.19,
        ),
        FurtherFile(
            option="vae",
            title=msg("the autoencoder of Qwen-Image"),
            mark="decoder.head.2.weight",
            hub_id=_REPO,
            revision="main",
            file="split_files/vae/qwen_image_vae.safetensors",
            sha256="a70580f0213e67967ee9c95f05bb400e8fb08307e017a924bf3441223e023d1f",
            gb=0.25,
        ),
    ),
    trainer_files=(*transformers.QWEN3_CONFIG, *transformers.T5_CONFIG),
    options=transformers.proposed(
        _DOCS,
        timestep_sampling=("sigmoid", msg("as in sd-scripts' guide to it")),
        discrete_flow_shift=(1.0, msg("as in sd-scripts' guide to it")),
    ),
    without={
        **transformers.WITHOUT,
        "fp8_base": msg("sd-scripts does not do it for Anima"),
        "fp8_base_unet": msg("sd-scripts does not do it for Anima"),
    },
    transformer=Transformer(
        parameters=2.09e9,
        blocks=Blocks(parameters=(69.0,), numbers=(28,)),
        lora_per_dim=1_433_600,
        text_gb=1.19,
        activations_gb=16.0,
        checkpointed_gb=1.0,
        step_tflop=(38.0, 56.0),
        forward_tflop=18.0,
        has_fp8=False,
        sources=(_DOCS,),
    ),
    licence=Licence(
        name="CircleStone Labs Non-Commercial License",
        url="https://huggingface.co/circlestone-labs/Anima",
        note=msg(
            "Anima is not for commercial use, and a LoRA made from it is a derivative under the"
            " same licence"
        ),
        is_commercial=False,
    ),
    text_in_comfyui=(transformers.TEXT_OF_NEWER_COMFYUI,),
    lycoris_passes_over=(
        *("full", "full-lin", "attn-mlp", "unet-only", "unet-transformer-only"),
        *transformers.NOT_ITS_ATTENTION,
    ),  # its final layer alone has a class of a name that LyCORIS knows
    name_patterns=r"anima(?!gine|ted|tion)",
    bases=(
        KnownBase(
            name="anima",
            hub_id=_REPO,
            family="anima",
            licence="circlestone-labs-non-commercial-license",
            revision="main",
            file="split_files/diffusion_models/anima-preview.safetensors",
            sha256="41fa7b78613dfe0d888b3647f70c7fb8cdfda2ff177e78d2e16e06dc810d9dcc",
            other_names=("anima-preview",),
            files=("anima-preview.safetensors",),
        ),
    ),
)

"""Lumina Image 2.0.

Sizes are counts of the model's tensors: 26 layers of width 2,304. Its training's memory and time
are published nowhere with the settings: by tokens, width and layers after FLUX.1's.
"""

from tenner.core.messages import msg
from tenner.families import transformers
from tenner.families.facts import (
    Blocks,
    Drawing,
    FamilyFacts,
    FurtherFile,
    HubTokenizer,
    KnownBase,
    Licence,
    TextInComfyui,
    Transformer,
)

_DOCS = "sd-scripts, docs/lumina_train_network.md"
_REPO = "Comfy-Org/Lumina_Image_2.0_Repackaged"

LUMINA = FamilyFacts(
    name="lumina2",
    title="Lumina Image 2.0",
    script="lumina_train_network.py",
    lora_module="networks.lora_lumina",
    side=1024,
    defaults=transformers.defaults(steps=64, rank=8, source=_DOCS),
    recognises=lambda shapes: (
        transformers.has_tensors(shapes, "cap_embedder.1.weight", "layers.25.attention.qkv.weight")
        and not transformers.has_tensors(shapes, "layers.26.attention.qkv.weight")
    ),
    diffusers_class="Lumina2Transformer2DModel",
    drawing=Drawing(
        pipeline="",
        has_trainers_model=True,
        steps=36,
        guidance=4.0,
        source="the model's page: 4.0, 50 steps",
    ),
    files=(
        FurtherFile(
            option="gemma2",
            title=msg("the text encoder Gemma 2 2B"),
            mark="model.layers.25.self_attn.q_proj.weight",
            hub_id=_REPO,
            revision="main",
            file="split_files/text_encoders/gemma_2_2b_fp16.safetensors",
            sha256="29761442862f8d064d3f854bb6fabf4379dcff511a7f6ba9405a00bd0f7e2dbd",
            gb=5.23,
        ),
        transformers.AE_FILE,
    ),
    options=transformers.proposed(
        _DOCS,
        timestep_sampling=("nextdit_shift", msg("as in sd-scripts' guide to it")),
        discrete_flow_shift=(6.0, msg("as in sd-scripts' guide to it")),
        model_prediction_type=("raw", msg("recommended: the prediction as it is")),
        system_prompt=(
            "You are an assistant designed to generate high-quality images based on user prompts.",
            msg("the words that the model was trained with"),
        ),
    ),
    without=transformers.WITHOUT,
    transformer=Transformer(
        parameters=2.61e9,
        blocks=Blocks(parameters=(88.0,), numbers=(26,)),
        lora_per_dim=1_440_000,
        text_gb=5.23,
        activations_gb=17.0,
        checkpointed_gb=1.0,
        step_tflop=(50.0, 74.0),
        forward_tflop=23.7,
        sources=(_DOCS,),
    ),
    licence=Licence(
        name="Apache License 2.0", url="https://huggingface.co/Alpha-VLLM/Lumina-Image-2.0"
    ),
    hub_tokenizers=(
        HubTokenizer(
            title=msg("the tokenizer of Gemma 2"),
            hub_id="google/gemma-2-2b",
            revision="c5ebcd40d208330abc697524c919956e692655cf",
            files={
                "tokenizer.json": (
                    "3f289bc05132635a8bc7aca7aa21255efd5e18f3710f43e3cdb96bcd41be4922"
                ),
                "tokenizer_config.json": "",
            },
            is_gated=True,
        ),
    ),
    text_in_comfyui=(
        transformers.TEXT_OF_NEWER_COMFYUI,
        TextInComfyui(
            network_module="lycoris.kohya",
            text=msg(
                "ComfyUI does not load what LyCORIS trains of the text encoder, whose modules it"
                " names lora_te1 and ComfyUI lora_te"
            ),
            fix=msg("set network_train_unet_only = true, or use networks.lora"),
        ),
    ),
    lycoris_passes_over=transformers.NOT_ITS_ATTENTION,
    name_patterns=r"lumina",
    bases=(
        KnownBase(
            name="lumina2",
            hub_id=_REPO,
            family="lumina2",
            licence="apache-2.0",
            revision="main",
            file="split_files/diffusion_models/lumina_2_model_bf16.safetensors",
            sha256="736e7a524186c943568dfe688d87ce3556cfbd97f7026125065b0aa44c351f6a",
            other_names=("lumina", "lumina-image-2.0", "alpha-vllm/lumina-image-2.0"),
            files=("lumina_2_model_bf16.safetensors", "lumina-image-2.safetensors"),
        ),
    ),
)

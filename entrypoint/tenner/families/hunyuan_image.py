"""HunyuanImage 2.1.

Sizes are counts of the model's tensors: 20 double and 40 single blocks of width 3,584. What an
image takes is fitted to what sd-scripts' guide names for 8, 12 and 24 GB
(`docs/hunyuan_image_train_network.md`, 6.1: blocks_to_swap 37, 32 and 9 with fp8_scaled).
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
    Transformer,
)

_DOCS = "sd-scripts, docs/hunyuan_image_train_network.md"
_PARTS = "Comfy-Org/HunyuanImage_2.1_ComfyUI"

HUNYUAN_IMAGE = FamilyFacts(
    name="hunyuan-image",
    title="HunyuanImage 2.1",
    script="hunyuan_image_train_network.py",
    lora_module="networks.lora_hunyuan_image",
    side=2048,
    defaults=transformers.defaults(steps=64, rank=16, source=_DOCS, text_trained=False),
    recognises=lambda shapes: (
        transformers.has_tensors(shapes, "byt5_in.fc1.weight")
        and not any("vision_in" in name for name in shapes)
    ),
    diffusers_class="HunyuanImageTransformer2DModel",
    drawing=Drawing(
        pipeline="",
        has_trainers_model=True,
        steps=50,
        guidance=3.5,
        source="the model's page: 50 steps, 3.5",
    ),
    files=(
        FurtherFile(
            option="text_encoder",
            title=msg("the text encoder Qwen2.5-VL 7B"),
            mark="model.layers.27.self_attn.q_proj.bias",
            hub_id=_PARTS,
            revision="main",
            file="split_files/text_encoders/qwen_2.5_vl_7b.safetensors",
            sha256="cfafd739459bc86257397259f612a9aee88e5b98e85b5c0d0d1717e898b3463a",
            gb=16.58,
        ),
        FurtherFile(
            option="byt5",
            title=msg("the text encoder byT5 Glyph"),
            mark="encoder.block.11.layer.1.DenseReluDense.wi_0.weight",
            hub_id=_PARTS,
            revision="main",
            file="split_files/text_encoders/byt5_small_glyphxl_fp16.safetensors",
            sha256="516910bb4c9b225370290e40585d1b0e6c8cd3583690f7eec2f7fb593990fb48",
            gb=0.44,
        ),
        FurtherFile(
            option="vae",
            title=msg("the autoencoder of HunyuanImage"),
            mark="decoder.conv_in.weight",
            hub_id=_PARTS,
            revision="main",
            file="split_files/vae/hunyuan_image_2.1_vae_fp16.safetensors",
            sha256="f2ae19863609206196b5e3a86bfd94f67bd3866f5042004e3994f07e3c93b2f9",
            gb=0.81,
        ),
    ),
    options=transformers.proposed(
        _DOCS,
        attn_mode=("torch", msg("as in sd-scripts' guide to it")),
        split_attn=(True, msg("as in sd-scripts' guide to it")),
        model_prediction_type=("raw", msg("recommended: the prediction as it is")),
        discrete_flow_shift=(5.0, msg("as in sd-scripts' guide to it")),
    ),
    required={"network_train_unet_only": True},
    without={
        **transformers.WITHOUT,
        "fp8_base": msg("sd-scripts has fp8_scaled for it instead"),
        "fp8_base_unet": msg("sd-scripts has fp8_scaled for it instead"),
        "text_encoder_lr": msg("its text encoders cannot be trained"),
        "network_train_text_encoder_only": msg("its text encoders cannot be trained"),
    },
    has_captions_on_disk=True,  # its `ocr_mask` is a numpy scalar there, which torch refuses
    captions_levers={"fp8_vl": True, "text_encoder_cpu": True},
    captions_shares={"fp8_vl": 0.513, "text_encoder_cpu": 0.0},  # of 16.58 and 0.44 GB
    transformer=Transformer(
        parameters=17.0e9,
        blocks=Blocks(parameters=(462.0, 193.0), numbers=(20, 40)),
        lora_per_dim=5_700_000,
        text_gb=17.02,
        activations_gb=48.0,
        checkpointed_gb=3.0,
        step_tflop=(205.0, 310.0),
        forward_tflop=98.0,
        fp8_option="fp8_scaled",
        sources=(_DOCS,),
    ),
    licence=Licence(
        name="Tencent Hunyuan Community License",
        url="https://huggingface.co/tencent/HunyuanImage-2.1/blob/main/LICENSE",
        note=msg(
            "HunyuanImage's licence does not hold in the European Union, the United Kingdom and"
            " South Korea, and limits commercial use"
        ),
    ),
    hub_tokenizers=(
        HubTokenizer(
            title=msg("the tokenizer of Qwen2.5-VL"),
            hub_id="Qwen/Qwen2.5-VL-7B-Instruct",
            revision="cc594898137f460bfe9f0759e9844b3ce807cfb5",
            files={
                "vocab.json": "ca10d7e9fb3ed18575dd1e277a2579c16d108e32f27439684afa0e10b1440910",
                "merges.txt": "599bab54075088774b1733fde865d5bd747cbcc7a547c5bc12610e874e26f5e3",
                "tokenizer_config.json": "",
            },
        ),
        HubTokenizer(
            title=msg("the tokenizer of byT5"),
            hub_id="google/byt5-small",
            revision="68377bdc18a2ffec8a0533fef03b1c513a4dd49d",
            files={
                "config.json": "7845fb21b320f3fa05392ce151143502cf08729c8c89732da3293615885d3e83",
                "tokenizer_config.json": "",
                "special_tokens_map.json": "",
            },
        ),
    ),
    lora_widths=(3584,),
    comfyui_converter="networks/convert_hunyuan_image_lora_to_comfy.py",
    lycoris_passes_over=transformers.NOT_ITS_ATTENTION,
    name_patterns=r"hunyuan[-_ ]?image",
    bases=(
        KnownBase(
            name="hunyuan-image",
            hub_id="tencent/HunyuanImage-2.1",
            family="hunyuan-image",
            licence="tencent-hunyuan-community",
            revision="main",
            file="dit/hunyuanimage2.1.safetensors",
            sha256="049634539c631a6c097d989efc2f29942637ddbb718a834a13d0c8cba22cf087",
            other_names=("hunyuanimage", "hunyuanimage-2.1"),
            files=("hunyuanimage2.1.safetensors",),
        ),
    ),
)

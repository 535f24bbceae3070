"""Common facts of the families with a transformer as denoiser: files, options, defaults."""

from tenner.core.messages import msg
from tenner.families.facts import (
    Default,
    FamilyDefaults,
    FurtherFile,
    Scalar,
    Shapes,
    TextInComfyui,
)

CLIP_L = "openai_clip-vit-large-patch14"
CLIP_G = "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"
T5_XXL = "google_t5-v1_1-xxl"
"""Folders of tokenizers, as sd-scripts names them under `tokenizer_cache_dir`."""
T5_CONFIG = ("configs/t5_old/spiece.model", "configs/t5_old/tokenizer.json")
QWEN3_CONFIG = ("configs/qwen3_06b/config.json", "configs/qwen3_06b/vocab.json")
"""Tokenizers among sd-scripts' own files."""

_ENCODERS = "6af2a98e3f615bdfa612fbd85da93d1ed5f69ef5"  # comfyanonymous/flux_text_encoders
_SD35_ENCODERS = "05a7e90d80ab0eb9bcc2fa198a08273a133ec56c"  # Comfy-Org/stable-diffusion-3.5-fp8

CLIP_L_FILE = FurtherFile(
    option="clip_l",
    title=msg("the text encoder CLIP-L"),
    mark="text_model.embeddings.position_embedding.weight",
    shape=(77, 768),
    hub_id="comfyanonymous/flux_text_encoders",
    revision=_ENCODERS,
    file="clip_l.safetensors",
    sha256="660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd",
    gb=0.25,
)
CLIP_G_FILE = FurtherFile(
    option="clip_g",
    title=msg("the text encoder CLIP-G"),
    mark="text_model.embeddings.position_embedding.weight",
    shape=(77, 1280),
    hub_id="Comfy-Org/stable-diffusion-3.5-fp8",
    revision=_SD35_ENCODERS,
    file="text_encoders/clip_g.safetensors",
    sha256="ec310df2af79c318e24d20511b601a591ca8cd4f1fce1d8dff822a356bcdb1f4",
    gb=1.39,
)
T5_FILE = FurtherFile(
    option="t5xxl",
    title=msg("the text encoder T5-XXL"),
    mark="encoder.block.23.layer.1.DenseReluDense.wi_0.weight",
    hub_id="comfyanonymous/flux_text_encoders",
    revision=_ENCODERS,
    file="t5xxl_fp16.safetensors",
    sha256="6e480b09fae049a72d2a8c5fbccb8d3e92febeb233bbe9dfe7256958a9167635",
    gb=9.79,
    other_names=("t5xxl_fp8_e4m3fn.safetensors",),
)
AE_FILE = FurtherFile(
    option="ae",
    title=msg("the autoencoder"),
    mark="decoder.conv_in.weight",
    shape=(512, 16, 3, 3),
    hub_id="Comfy-Org/z_image_turbo",
    revision="2f862278568d3f0a83167a16e5f11094da6dee72",
    file="split_files/vae/ae.safetensors",
    sha256="afc8e28272cd15db3919bacdb6918ce9c1ed22e96cb12c4d5ed0fba823529e38",
    gb=0.34,
)
"""FLUX.1's autoencoder is the same file in all repos that repeat it."""


CONVOLUTIONS_ALONE = ("unet-convblock-only",)
"""The preset of LyCORIS that adapts no transformer."""
NOT_ITS_ATTENTION = ("attn-only", *CONVOLUTIONS_ALONE)
"""Presets of LyCORIS without a block of a family whose attention is of none of the two classes that
`attn-only` names."""
TEXT_OF_NEWER_COMFYUI = TextInComfyui(
    text=msg("an older ComfyUI does not load what is trained of the text encoder"),
    fix=msg("load the LoRA in a ComfyUI with its pull request 13847, of 2026"),
    level="note",
)
"""ComfyUI loads `lora_te_` and the path of any module where the text encoder is one language model
(comfy/lora.py, `model_lora_keys_clip`), since github.com/Comfy-Org/ComfyUI/pull/13847."""

_PREFIXES = ("", "model.diffusion_model.", "net.")
"""Prefixes of the denoiser's tensors: of its own file, of ComfyUI's checkpoints, of Anima's."""


def tensor_shape(shapes: Shapes, name: str) -> list[int] | None:
    """The shape of a tensor of a denoiser, under whichever prefix; None where it is not there."""
    found = (shapes.get(f"{prefix}{name}") for prefix in _PREFIXES)
    return next((each for each in found if each is not None), None)


def has_tensors(shapes: Shapes, *names: str) -> bool:
    """Whether a checkpoint has all of these tensors of a denoiser, under one of the prefixes."""
    return any(all(f"{prefix}{name}" in shapes for name in names) for prefix in _PREFIXES)


def defaults(*, steps: int, rank: int, source: str, text_trained: bool = True) -> FamilyDefaults:
    """The defaults of a transformer family whose buckets have `steps` pixels."""
    return FamilyDefaults(
        bucket_reso_steps=Default(
            value=steps,
            reason=msg("sd-scripts refuses finer ones in all of its scripts"),
            source="sd-scripts, train_network.py: verify_bucket_reso_steps(64)",
        ),
        finest_step=steps,
        network_train_unet_only=Default(
            value=True,
            reason=msg("captions are encoded once, and the text encoders leave the card"),
            source=source,
        ),
        text_encoder_lr_share=Default(
            value=0.5 if text_trained else 0.0,
            reason=msg("half of learning_rate, the guide's"),
            source="as for Stable Diffusion 1.x: its documentation names none",
        ),
        noise_offset=Default(
            value=None,
            reason=msg("flow matching has no use for it"),
            source="sd-scripts: get_noise_pred_and_target of the family's script",
        ),
        clip_skip=Default(
            value=None,
            reason=msg("the family has its own layers"),
            source="sd-scripts: the option is not read",
        ),
        no_half_vae=Default(
            value=False, reason=msg("its values stay within half precision"), source=source
        ),
        rank=Default(value=rank, reason=msg("as in sd-scripts' guide to it"), source=source),
    )


def proposed(source: str, **values: tuple[Scalar, str]) -> dict[str, Default[Scalar]]:
    """Options with their values and reasons, all of one source."""
    return {
        name: Default(value=value, reason=reason, source=source)
        for name, (value, reason) in values.items()
    }


WITHOUT: dict[str, str] = {
    "clip_skip": msg("its text encoders are always read at the same layers"),
    "v2": msg("it is no Stable Diffusion 2.x"),
    "v_parameterization": msg("it predicts the flow"),
    "zero_terminal_snr": msg("its noise is a straight line from picture to noise"),
    "noise_offset": msg("its noise is a straight line from picture to noise"),
    "multires_noise_iterations": msg("its noise is a straight line from picture to noise"),
    "adaptive_noise_scale": msg("its noise is a straight line from picture to noise"),
    "ip_noise_gamma": msg("its noise is a straight line from picture to noise"),
    "min_snr_gamma": msg("it has no signal-to-noise ratio of steps to weigh by"),
    "scale_v_pred_loss_like_noise_pred": msg("it predicts the flow"),
    "debiased_estimation_loss": msg("it has no signal-to-noise ratio of steps to weigh by"),
    "conv_dim": msg("its transformer has no convolutions that a LoRA adapts"),
    "conv_alpha": msg("its transformer has no convolutions that a LoRA adapts"),
    "weighted_captions": msg("its captions are encoded as they are"),
}
"""Options that these families' scripts do not read, or that would break them."""

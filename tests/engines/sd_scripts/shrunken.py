"""The real sd-scripts with smaller models: its own code, and sizes that a test's time allows.

`sd_scripts(folder, real)` makes a folder that stands for SD_SCRIPTS_DIR: links to all of the real
one's files, with a package `library` that sets smaller sizes when it is imported, and with scripts
of the transformer families that run the real script's own code beside it. `write_models` writes
base and text encoders of these sizes with random weights; it runs in the trainer's Python.
"""

import sys
from pathlib import Path

SIZES = """
import transformers
from library import anima_models, chroma_models, flux_models, flux_utils, sd3_utils
from library import hunyuan_image_models, hunyuan_image_text_encoder, hunyuan_image_vae
from library import lumina_models, lumina_util, qwen_image_autoencoder_kl
import inspect
from dataclasses import replace

def smaller(kind, **sizes):
    return lambda *given, **named: kind(*given, **{**named, **sizes})

CLIP = {"num_hidden_layers": 2, "intermediate_size": 64}
T5 = {"d_ff": 16, "num_heads": 2, "d_kv": 8}
flux_utils.T5Config = smaller(flux_utils.T5Config, **T5)
flux_utils.CLIPConfig = smaller(flux_utils.CLIPConfig, **CLIP)
sd3_utils.CLIPTextConfig = smaller(sd3_utils.CLIPTextConfig, **CLIP)
chroma_models.chroma_params = replace(
    chroma_models.chroma_params, depth=1, depth_single_blocks=1, hidden_size=256, num_heads=2,
    approximator_depth=1, approximator_hidden_size=64,
)
QWEN3 = {
    "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 8,
}
transformers.Qwen3Config.from_pretrained = smaller(
    transformers.Qwen3Config.from_pretrained, **QWEN3
)
anima_models.LLMAdapter = smaller(
    anima_models.LLMAdapter, source_dim=64, target_dim=64, model_dim=64, num_layers=1
)
ANIMA = {
    "model_channels": 256, "num_heads": 2, "num_blocks": 2, "crossattn_emb_channels": 64,
    "adaln_lora_dim": 16,
}
_Anima = anima_models.Anima
anima_models.Anima = type("Anima", (_Anima,), {
    "__init__": lambda self, **known: _Anima.__init__(self, **{**known, **ANIMA})
})
qwen_image_autoencoder_kl.AutoencoderKLQwenImage = smaller(
    qwen_image_autoencoder_kl.AutoencoderKLQwenImage, base_dim=16
)
LUMINA = {
    "dim": 96, "n_heads": 2, "n_kv_heads": 1, "axes_dims": [16, 16, 16], "multiple_of": 32,
    "cap_feat_dim": 64,
}
_NextDiT = lumina_models.NextDiT
lumina_models.NextDiT = type("NextDiT", (_NextDiT,), {
    "__init__": lambda self, **known: _NextDiT.__init__(self, **{**known, **LUMINA})
})
lumina_util.Gemma2Config = smaller(
    lumina_util.Gemma2Config, hidden_size=64, intermediate_size=64, num_attention_heads=2,
    num_key_value_heads=1, head_dim=32,
)

def rewritten(module, name, changes):
    "A class whose sizes are written in its code, with others: all else is its own code."
    text = inspect.getsource(getattr(module, name))
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    exec(compile(text, module.__file__, "exec"), module.__dict__)

rewritten(hunyuan_image_models, "HYImageDiffusionTransformer", {
    "self.hidden_size = 3584": "self.hidden_size = 256",
    "self.heads_num = 28": "self.heads_num = 2",
    "mm_double_blocks_depth = 20": "mm_double_blocks_depth = 1",
    "mm_single_blocks_depth = 40": "mm_single_blocks_depth = 1",
    "text_states_dim = 3584": "text_states_dim = 128",
})
rewritten(hunyuan_image_vae, "HunyuanVAE2D", {
    "(128, 256, 512, 512, 1024, 1024)": "(32, 32, 64, 64, 128, 128)",
})
VL = {
    "hidden_size": 128, "intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1,
}
SEES = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 128,
    "fullatt_block_indexes": [0],
}
_VL = hunyuan_image_text_encoder.Qwen2_5_VLConfig
hunyuan_image_text_encoder.Qwen2_5_VLConfig = lambda **known: _VL(**{
    **known, **VL, "text_config": {**known["text_config"], **VL},
    "vision_config": {**known["vision_config"], **SEES},
})
hunyuan_image_text_encoder.T5Config = smaller(hunyuan_image_text_encoder.T5Config, **T5)
"""
SCRIPT = """import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
_file = Path({real!r}) / {name!r}
exec(compile(_file.read_text(encoding="utf-8"), str(_file), "exec"), globals())
"""
SHRUNKEN = (
    "flux_train_network.py",
    "sd3_train_network.py",
    "anima_train_network.py",
    "lumina_train_network.py",
    "hunyuan_image_train_network.py",
)


def sd_scripts(folder: Path, real: Path) -> Path:
    """A folder for SD_SCRIPTS_DIR whose transformer scripts train smaller models."""
    library = folder / "library"
    library.mkdir(parents=True)
    for each in (real / "library").iterdir():
        if each.name != "__init__.py":
            (library / each.name).symlink_to(each)
    (library / "__init__.py").write_text(SIZES, encoding="utf-8")
    for each in real.iterdir():
        if each.name not in (*SHRUNKEN, "library"):
            (folder / each.name).symlink_to(each)
    for name in SHRUNKEN:
        text = SCRIPT.format(folder=str(folder), real=str(real), name=name)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def use(real: str) -> None:
    """Take the real sd-scripts with smaller sizes in this process."""
    sys.path.insert(0, real)
    exec(SIZES, {})


def write_models(real: str, folder: Path, families: list[str]) -> None:
    """Bases and the files beside them, random weights in bf16."""
    use(real)
    import torch
    from library import chroma_models, flux_models, flux_utils, sd3_models, sd3_utils
    from safetensors.torch import save_file

    torch.manual_seed(1)

    def random(module: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
        return {
            prefix + name: (torch.randn(each.shape) * 0.02).to(torch.bfloat16)
            for name, each in module.state_dict().items()
            if each.dtype.is_floating_point
        }

    def save(tensors: dict[str, torch.Tensor], name: str) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})

    if {*families} - {"anima", "lumina2", "hunyuan-image"}:
        save(random(t5(flux_utils)), "t5xxl_fp16.safetensors")
        save(random(clip(sd3_utils, 768, 12)), "clip_l.safetensors")
    if "anima" in families:
        for name, tensors in anima(Path(real), random).items():
            save(tensors, name)
    if "lumina2" in families:
        for name, tensors in lumina(random).items():
            save(tensors, name)
    if "hunyuan-image" in families:
        for name, tensors in hunyuan_image(random).items():
            save(tensors, name)
    flows = {"flux": ("dev", "flux1-dev"), "flux-schnell": ("schnell", "flux1-schnell")}
    for version, name in [each for family, each in flows.items() if family in families]:
        parameters = replaced(flux_models.configs[version].params, depth=1, depth_single_blocks=1)
        with torch.device("meta"):
            model = flux_models.Flux(parameters)
        save(random(model), f"{name}.safetensors")
    if "chroma" in families:
        with torch.device("meta"):
            model = chroma_models.Chroma(chroma_models.chroma_params)
        save(random(model), "Chroma1-Base.safetensors")
    if {*flows, "chroma", "lumina2"} & {*families}:
        with torch.device("meta"):
            ae = flux_models.AutoEncoder(flux_models.configs["dev"].ae_params)
        save(random(ae), "ae.safetensors")
    # by sd-scripts' `analyze_state_dict_state`: norms of queries and keys, second attentions
    mmdits = {
        "sd3": ("medium", None, [], "sd3_medium"),
        "sd35-medium": ("5-medium", "rms", [0], "sd3.5_medium"),
        "sd35-large": ("5-large", "rms", [], "sd3.5_large"),
    }
    for kind, norm, dual, name in [each for family, each in mmdits.items() if family in families]:
        save(random(clip(sd3_utils, 1280, 20)), "clip_g.safetensors")
        parameters = sd3_models.SD3Params(
            patch_size=2,
            depth=2,
            num_patches=384 * 384,
            pos_embed_max_size=384,
            adm_in_channels=2048,
            qk_norm=norm,
            x_block_self_attn_layers=dual,
            context_embedder_in_features=4096,
            context_embedder_out_features=128,
            model_type=kind,
        )
        mmdit = sd3_models.create_sd3_mmdit(parameters)
        tensors = random(mmdit, "model.diffusion_model.")
        tensors |= random(sd3_models.SDVAE(), "first_stage_model.")
        tensors["model.diffusion_model.pos_embed"] = torch.zeros(
            1, 384 * 384, 128, dtype=torch.bfloat16
        )
        save(tensors, f"{name}.safetensors")


def anima(real: Path, random) -> dict[str, dict]:
    """Anima, its text encoder and its autoencoder by file names, with tensors named as in the
    single files, which sd-scripts' loaders rename."""
    import torch
    import transformers
    from library import anima_models, qwen_image_autoencoder_kl

    known = {
        "max_img_h": 512,
        "max_img_w": 512,
        "max_frames": 128,
        "in_channels": 16,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "pos_emb_cls": "rope3d",
        "use_adaln_lora": True,
        "use_llm_adapter": True,
    }
    with torch.device("meta"):
        config = transformers.Qwen3Config.from_pretrained(real / "configs" / "qwen3_06b")
        qwen3 = transformers.Qwen3ForCausalLM(config).model
        dit = anima_models.Anima(**known)
        vae = qwen_image_autoencoder_kl.AutoencoderKLQwenImage()
    single = {own: name for name, own in key_map(qwen_image_autoencoder_kl).items()}
    return {
        "anima-preview.safetensors": random(dit, "net."),
        "qwen_3_06b_base.safetensors": random(qwen3, "model."),
        "qwen_image_vae.safetensors": {
            ".".join((single[name.rpartition(".")[0]], name.rpartition(".")[2])): each
            for name, each in random(vae).items()
        },
    }


def lumina(random) -> dict[str, dict]:
    """Lumina Image 2.0 and its text encoder by file names; its autoencoder is FLUX.1's."""
    import torch
    from library import lumina_models, lumina_util
    from transformers import Gemma2Model

    with torch.device("meta"):
        model = lumina_models.NextDiT_2B_GQA_patch2_Adaln_Refiner()
        gemma = Gemma2Model(lumina_util.Gemma2Config(num_hidden_layers=26, vocab_size=256000))
    return {
        "lumina_2_model_bf16.safetensors": random(model),
        "gemma_2_2b_fp16.safetensors": random(gemma, "model."),
    }


def hunyuan_image(random) -> dict[str, dict]:
    """HunyuanImage 2.1, its text encoders and its autoencoder by file names, with tensors named as
    in the single files, which sd-scripts' loaders rename."""
    import contextlib

    import torch
    from library import hunyuan_image_models, hunyuan_image_text_encoder, hunyuan_image_vae
    from transformers import ByT5Tokenizer

    made = {}

    def keep(name):
        kind = getattr(hunyuan_image_text_encoder, name)

        class Kept:
            @staticmethod
            def _from_config(config):
                made[name] = kind._from_config(config)
                raise Made

        setattr(hunyuan_image_text_encoder, name, Kept)

    class Made(Exception):
        """The model has been made as sd-scripts makes it."""

    keep("Qwen2_5_VLForConditionalGeneration")
    keep("T5ForConditionalGeneration")
    hunyuan_image_text_encoder.AutoTokenizer = type(
        "NoTokenizer", (), {"from_pretrained": staticmethod(lambda *_: None)}
    )
    with torch.device("meta"):
        dit = hunyuan_image_models.HYImageDiffusionTransformer()
        vae = hunyuan_image_vae.HunyuanVAE2D()
    for load in ("load_qwen2_5_vl", "load_byt5"):
        with contextlib.suppress(Made):
            getattr(hunyuan_image_text_encoder, load)("", torch.bfloat16, "cpu")
    vl = made["Qwen2_5_VLForConditionalGeneration"]
    byt5 = made["T5ForConditionalGeneration"].get_encoder()
    hunyuan_image_text_encoder.add_special_token(ByT5Tokenizer(), byt5)
    renamed = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): each
        for name, each in random(vl).items()
    }
    encoder = random(byt5, "encoder.")
    encoder["shared.weight"] = encoder.pop("encoder.embed_tokens.weight")
    return {
        "hunyuanimage2.1.safetensors": random(dit),
        "qwen_2.5_vl_7b.safetensors": renamed,
        "byt5_small_glyphxl_fp16.safetensors": encoder,
        "hunyuan_image_2.1_vae_fp16.safetensors": random(vae),
    }


def key_map(module) -> dict[str, str]:
    """What sd-scripts calls the modules of the autoencoder's single file: written in a function."""
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(module.convert_comfyui_state_dict))
    (found,) = [each for each in ast.walk(tree) if isinstance(each, ast.Dict) and each.keys]
    return ast.literal_eval(found)


def replaced(found, **changes):
    from dataclasses import replace

    return replace(found, **changes)


def t5(flux_utils):
    import json

    import torch
    from transformers import T5EncoderModel

    known = {
        "d_model": 4096,
        "num_layers": 24,
        "vocab_size": 32128,
        "d_ff": 10240,
        "d_kv": 64,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
    }
    del json
    with torch.device("meta"):
        return T5EncoderModel(flux_utils.T5Config(**known))


def clip(sd3_utils, width: int, heads: int):
    import torch
    from transformers import CLIPTextModelWithProjection

    config = sd3_utils.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        num_attention_heads=heads,
        max_position_embeddings=77,
        projection_dim=width,
    )
    with torch.device("meta"):
        return CLIPTextModelWithProjection(config)


if __name__ == "__main__":
    write_models(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])

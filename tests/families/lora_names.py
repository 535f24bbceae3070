"""Names of a family's modules as sd-scripts has them, printed as JSON: run in the trainer's Python.

    python lora_names.py SD_SCRIPTS_DIR

For each family `modules`, the LoRA's modules that its network module makes over the transformer in
full size, and `weights`, the transformer's own tensors; `lycoris`, by preset, those that LyCORIS
makes, and `ia3`, those of its (IA)³ by the preset of that name; `text`, the modules over its text
encoders with T5, `lycoris_text` LyCORIS' of them, and `encoders`, their tensors as ComfyUI names
them. On the meta device: no weights are made.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

PRESETS = (
    *("full", "full-lin", "attn-mlp", "attn-only", "unet-only", "unet-transformer-only"),
    "unet-convblock-only",
)


def main(real: str) -> None:
    sys.path.insert(0, real)
    import torch
    from library import (
        anima_models,
        chroma_models,
        flux_models,
        hunyuan_image_models,
        lumina_models,
        sd3_models,
    )
    from lycoris.kohya import LycorisNetworkKohya as LycorisNetwork
    from lycoris.kohya import create_network
    from networks import (
        lora,
        lora_anima,
        lora_flux,
        lora_hunyuan_image,
        lora_lumina,
        lora_sd3,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        Gemma2Config,
        Gemma2Model,
        Qwen3Config,
        Qwen3Model,
        T5Config,
        T5EncoderModel,
    )

    def sd3(kind: str, depth: int, norm: str | None, dual: list[int]) -> torch.nn.Module:
        return sd3_models.create_sd3_mmdit(
            sd3_models.SD3Params(
                patch_size=2,
                depth=depth,
                num_patches=192 * 192,
                pos_embed_max_size=192,
                adm_in_channels=2048,
                qk_norm=norm,
                x_block_self_attn_layers=dual,
                context_embedder_in_features=4096,
                context_embedder_out_features=64 * depth,
                model_type=kind,
            )
        )

    def clip(width: int, layers: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            projection_dim=width,
        )

    def names(modules: Iterable[torch.nn.Module]) -> list[str]:
        return [each.lora_name for each in modules]

    def over(
        preset: str, encoders: list[torch.nn.Module], model: torch.nn.Module
    ) -> LycorisNetwork:
        return create_network(1.0, 4, 4.0, None, encoders, model, preset=preset)

    anima = {
        "max_img_h": 512,
        "max_img_w": 512,
        "max_frames": 128,
        "in_channels": 16,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "model_channels": 2048,
        "concat_padding_mask": True,
        "crossattn_emb_channels": 1024,
        "num_blocks": 28,
        "pos_emb_cls": "rope3d",
        "use_adaln_lora": True,
        "adaln_lora_dim": 256,
        "num_heads": 16,
        "use_llm_adapter": True,
        "extra_per_block_abs_pos_emb": False,
    }
    with torch.device("meta"):
        models = {
            "flux": (flux_models.Flux(flux_models.configs["dev"].params), lora_flux),
            "flux-schnell": (flux_models.Flux(flux_models.configs["schnell"].params), lora_flux),
            "chroma": (chroma_models.Chroma(chroma_models.chroma_params), lora_flux),
            "sd3": (sd3("medium", 24, None, []), lora_sd3),
            "sd35-medium": (sd3("5-medium", 24, "rms", list(range(13))), lora_sd3),
            "sd35-large": (sd3("5-large", 38, "rms", []), lora_sd3),
            "anima": (anima_models.Anima(**anima), lora_anima),
            "lumina2": (lumina_models.NextDiT_2B_GQA_patch2_Adaln_Refiner(), lora_lumina),
            "hunyuan-image": (
                hunyuan_image_models.HYImageDiffusionTransformer(),
                lora_hunyuan_image,
            ),
        }
        clip_l = CLIPTextModelWithProjection(clip(768, 12))
        clip_g = CLIPTextModelWithProjection(clip(1280, 32))
        t5 = T5EncoderModel(
            T5Config(
                d_model=64, num_layers=24, d_ff=32, num_heads=2, feed_forward_proj="gated-gelu"
            )
        )
        small = {"hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 2}
        small |= {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 8}
        gemma2 = Gemma2Model(Gemma2Config(**small, num_hidden_layers=26))
        qwen3 = Qwen3Model(Qwen3Config(**small, num_hidden_layers=28))
        clips = ["clip_l.transformer", "clip_g.transformer"]
        texts = {
            "sd1": ([clip_l], clips[:1], lora),
            "sdxl": ([clip_l, clip_g], clips, lora),
            "flux": ([clip_l, t5], [clips[0], "t5xxl.transformer"], lora_flux),
            "chroma": ([None, t5], ["", "t5xxl.transformer"], lora_flux),
            "sd3": ([clip_l, clip_g, t5], [*clips, "t5xxl.transformer"], lora_sd3),
            "lumina2": ([gemma2], ["gemma2_2b.transformer.model"], lora_lumina),
            "anima": ([qwen3], ["qwen3_06b.transformer.model"], lora_anima),
        }
        found = {}
        for family, (model, module) in models.items():
            encoders = [torch.nn.Module()] if module is lora_lumina else []  # it reads the first
            network = module.create_network(1.0, 4, 4.0, None, encoders, model)
            found[family] = {
                "modules": names(network.unet_loras),
                "weights": list(model.state_dict()),
                "lycoris": {each: names(over(each, [], model).unet_loras) for each in PRESETS},
            }
        for family, (encoders, comfyui, module) in texts.items():
            more = {} if module is lora else {"train_t5xxl": "True"}
            model = torch.nn.Module() if module is lora else models[family][0]
            network = module.create_network(1.0, 4, 4.0, None, encoders, model, **more)
            found.setdefault(family, {}).update(
                text=names(network.text_encoder_loras),
                lycoris_text=names(
                    over("full", [each for each in encoders if each], model).text_encoder_loras
                ),
                encoders=[
                    f"{name}.{tensor}"
                    for name, each in zip(comfyui, encoders, strict=True)
                    for tensor in (each.state_dict() if each else ())
                ],
            )
    sys.path.insert(0, str(Path(__file__).parents[2] / "entrypoint/tenner/engines/sd_scripts"))
    import lycoris_ia3  # pyright: ignore[reportMissingImports]

    lycoris_ia3.make_available()
    for family, (model, _) in models.items():
        network = create_network(1.0, 4, 4.0, None, [], model, algo="ia3", preset="ia3")
        found[family]["ia3"] = names(network.unet_loras)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

"""Names of a family's modules as sd-scripts has them, printed as JSON: run in the trainer's Python.

    python lora_names.py SD_SCRIPTS_DIR

For each family `modules`, the LoRA's modules that its network module makes over the transformer in
full size, and `weights`, the transformer's own tensors. On the meta device: no weights are made.
"""

import json
import sys


def main(real: str) -> None:
    sys.path.insert(0, real)
    import torch
    from library import anima_models, chroma_models, flux_models, sd3_models
    from networks import lora_anima, lora_flux, lora_sd3

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
        }
        found = {}
        for family, (model, module) in models.items():
            network = module.create_network(1.0, 4, 4.0, None, [], model)
            names = [each.lora_name for each in network.unet_loras]
            found[family] = {"modules": names, "weights": list(model.state_dict())}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

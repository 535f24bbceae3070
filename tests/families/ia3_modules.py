"""What LyCORIS' (IA)³ adapts of sd-scripts' U-Nets and text encoders, printed as JSON: run in the
trainer's Python.

    python ia3_modules.py SD_SCRIPTS_DIR FOLDER_OF_LYCORIS_IA3

For each family `before`, the modules by LyCORIS alone, and `unet` and `text`, the numbers that are
trained; `from_file`, whether modules are read from their tensors as they were. On the meta device:
no weights are made.
"""

import json
import sys


def main(real: str, folder: str) -> None:
    sys.path[:0] = [real, folder]
    import lycoris_ia3  # pyright: ignore[reportMissingImports]
    import torch
    from library.original_unet import UNet2DConditionModel
    from library.sdxl_original_unet import SdxlUNet2DConditionModel
    from lycoris.kohya import create_network
    from lycoris.modules import get_module, make_module
    from lycoris.modules.ia3 import IA3Module
    from transformers import CLIPTextConfig, CLIPTextModel

    def clip(width: int, layers: int) -> torch.nn.Module:
        config = CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
        )
        return CLIPTextModel(config)

    with torch.device("meta"):
        models = {
            "sd1": (UNet2DConditionModel(64, 8, 768, False, False), [clip(768, 12)]),
            "sd2": (UNet2DConditionModel(64, [5, 10, 20, 20], 1024, True, False), [clip(1024, 23)]),
            "sdxl": (SdxlUNet2DConditionModel(), [clip(768, 12), clip(1280, 32)]),
        }
        before = {
            family: len(create_network(1.0, 4, 1.0, None, texts, unet, preset="ia3").unet_loras)
            for family, (unet, texts) in models.items()
        }
        lycoris_ia3.make_available()
        lycoris_ia3.make_available()  # the second time there is an entry, and it is left as it is
        found = {"before": before}
        for family, (unet, texts) in models.items():
            network = create_network(1.0, 4, 1.0, None, texts, unet, algo="ia3", preset="ia3")
            found[family] = {
                name: sum(each.weight.numel() for each in modules)
                for name, modules in (
                    ("unet", network.unet_loras),
                    ("text", network.text_encoder_loras),
                )
            }
    same = []
    for on_input, layer in (
        (True, torch.nn.Linear(6, 4)),
        (False, torch.nn.Linear(6, 4)),
        (False, torch.nn.Conv2d(6, 4, 3)),
    ):
        module = IA3Module("a", layer, train_on_input=on_input)
        torch.nn.init.normal_(module.weight)
        tensors = {f"a.{name}": value for name, value in module.state_dict().items()}
        again = make_module(*get_module(tensors, "a"), "a", layer)
        same.append(torch.equal(again.get_merged_weight()[0], module.get_merged_weight()[0]))
        same.append(not torch.equal(again.get_merged_weight()[0], layer.weight))
    print(json.dumps({**found, "from_file": same}))


if __name__ == "__main__":
    main(*sys.argv[1:])

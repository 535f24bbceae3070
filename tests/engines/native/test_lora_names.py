"""The file other tools load: exactly the modules and shapes that sd-scripts writes.

`lora_modules_*.txt` lists what `networks.lora` of sd-scripts adapts in a full-size SD 1.5 and SDXL
(commit 48d368f), a module a line: name, inputs, outputs, kind. Full-size models are built on
tensors that have sizes but no contents, so nothing is downloaded and no memory is needed.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tenner.base.tiny import base_dir
from tenner.core.train_job import TrainJob
from tenner.engines.native.load import BaseModel, TextSource
from tenner.engines.native.network import build_network

DIM = 8
Shapes = dict[str, tuple[int, ...]]


def configs(family: str) -> dict[str, Any]:
    text = resources.files("tenner.engines.native").joinpath("configs.json").read_text()
    return json.loads(text)[family]


def fake_base(family: str) -> BaseModel:
    """A full-size base model of fake tensors, as diffusers and transformers name them."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    found = configs(family)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**found["unet"])
        texts = [CLIPTextModel(CLIPTextConfig(**found["text_encoder"]))]
        if "text_encoder_2" in found:
            texts.append(CLIPTextModelWithProjection(CLIPTextConfig(**found["text_encoder_2"])))

    def fake(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix("text_model."): torch.empty(value.shape)
            for name, value in model.state_dict().items()
        }

    names = ("text_encoder", "text_encoder_2")
    return BaseModel(
        unet_config=found["unet"],
        unet=fake(unet),
        texts=tuple(
            TextSource(config=found[name], tensors=fake(model), tokenizer=base_dir() / "tokenizer")
            for name, model in zip(names, texts, strict=False)
        ),
        scheduler={},
        vae_path=Path("none"),
        vae_config=None,
    )


def shapes_written(family: str, **options: Any) -> Shapes:
    """Tensor names of the file and their shapes, for a LoRA of rank 8."""
    job = TrainJob(
        base="none",
        family=family,  # pyright: ignore[reportArgumentType]
        items=(),
        output_dir="none",
        output_name="none",
        state_dir="none",
        network_dim=DIM,
        **options,
    )
    with FakeTensorMode():
        bank = build_network(job, fake_base(family), torch.device("cpu")).bank
        found: Shapes = {}
        for spec in bank.specs():
            found[f"{spec.name}.alpha"] = ()
            found[f"{spec.name}.lora_down.weight"] = spec.down_shape
            found[f"{spec.name}.lora_up.weight"] = spec.up_shape
    return found


def shapes_of_sd_scripts(family: str) -> Shapes:
    lines = (Path(__file__).parent / f"lora_modules_{family}.txt").read_text().splitlines()
    found: Shapes = {}
    for name, inputs, outputs, kind in (line.split() for line in lines):
        kernel = (1, 1) if kind == "conv" else ()
        found[f"{name}.alpha"] = ()
        found[f"{name}.lora_down.weight"] = (DIM, int(inputs), *kernel)
        found[f"{name}.lora_up.weight"] = (int(outputs), DIM, *kernel)
    return found


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_file_has_exactly_the_tensors_of_sd_scripts(family: str) -> None:
    ours, theirs = shapes_written(family), shapes_of_sd_scripts(family)
    assert sorted(set(theirs) - set(ours)) == []
    assert sorted(set(ours) - set(theirs)) == []
    assert {name: shape for name, shape in ours.items() if shape != theirs[name]} == {}


def test_the_u_net_alone_has_the_u_nets_tensors() -> None:
    ours = shapes_written("sd1", network_train_unet_only=True)
    theirs = shapes_of_sd_scripts("sd1")
    assert ours == {name: s for name, s in theirs.items() if name.startswith("lora_unet_")}


def test_conv_dim_adds_the_3x3_convolutions_of_the_blocks() -> None:
    plain = shapes_written("sd1", network_train_unet_only=True)
    more = shapes_written("sd1", network_train_unet_only=True, conv_dim=4, conv_alpha=1.0)
    added = {name: shape for name, shape in more.items() if name not in plain}
    downs = {name: shape for name, shape in added.items() if name.endswith("lora_down.weight")}
    assert {shape[2:] for shape in downs.values()} <= {(3, 3), (1, 1), ()}
    assert sum(shape[2:] == (3, 3) for shape in downs.values()) > 40
    assert all(shape[0] == 4 for shape in downs.values() if shape[2:] == (3, 3))

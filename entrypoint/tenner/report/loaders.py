"""Which programs load a run's weights, by its family and its kind of network."""

from collections.abc import Sequence
from dataclasses import dataclass

from tenner.families import FamilyFacts
from tenner.kohya.networks import UNDRAWN
from tenner.lora_files.programs import KIND_NAMES, written_by

_OF_FORGE = ("flux", "flux-schnell")
"""Families without a U-Net whose LoRAs Forge loads; A1111 knows none of them."""


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """`kind` of network in words; `pipeline` is diffusers' class, empty where diffusers does not
    load the weights; `webui` names those of A1111 and Forge that do. `converter` is sd-scripts'
    script that ComfyUI needs before."""

    kind: str = KIND_NAMES["lora"]
    pipeline: str = ""
    webui: str = ""
    has_comfyui: bool = True
    converter: str = ""


STABLE_DIFFUSION = Loaders(pipeline="StableDiffusionPipeline", webui="AUTOMATIC1111, Forge")
"""Those of a plain LoRA of Stable Diffusion 1.x."""


def loaders_of(
    facts: FamilyFacts, network_module: str | None, network_args: Sequence[str]
) -> Loaders:
    """The programs that load what sd-scripts or tenner writes of this network."""
    written = written_by(network_module or "", network_args)
    of_forge = "Forge" if facts.name in _OF_FORGE else ""
    webui = of_forge if facts.transformer else "AUTOMATIC1111, Forge"
    drawing = facts.drawing
    in_diffusers = not drawing.why_not and not drawing.is_converted
    in_diffusers = in_diffusers and network_module not in UNDRAWN
    return Loaders(
        kind=KIND_NAMES[written.kind],
        pipeline=drawing.pipeline if in_diffusers else "",
        webui=webui if written.read_by("A1111, Forge") else "",
        has_comfyui=written.read_by("ComfyUI"),
        converter=facts.comfyui_converter,
    )

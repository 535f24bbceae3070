"""Which programs load a run's weights, by its family and its kind of network."""

from collections.abc import Sequence
from dataclasses import dataclass

from tenner.core.messages import NO_TEXT, Message
from tenner.families import FamilyFacts
from tenner.kohya.networks import NOT_IN_DIFFUSERS
from tenner.lora_files.programs import KIND_NAMES, written_by
from tenner.rules.written import keyword_arguments

_WEB_INTERFACES = {"A1111": "AUTOMATIC1111", "Forge": "Forge"}


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """`kind` of network in words; `pipeline` is diffusers' class, empty where diffusers does not
    load the weights; `webui` names those of A1111 and Forge that do. `converter` is sd-scripts'
    script that ComfyUI needs before; `left_out` says what it does not load."""

    kind: str = KIND_NAMES["lora"]
    pipeline: str = ""
    webui: str = ""
    has_comfyui: bool = True
    converter: str = ""
    left_out: Message = NO_TEXT


STABLE_DIFFUSION = Loaders(pipeline="StableDiffusionPipeline", webui="AUTOMATIC1111, Forge")
"""Those of a plain LoRA of Stable Diffusion 1.x."""


def loaders_of(
    facts: FamilyFacts,
    network_module: str | None,
    network_args: Sequence[str],
    *,
    trains_text: bool = False,
) -> Loaders:
    """The programs that load what sd-scripts or tenner writes of this network."""
    written = written_by(network_module or "", network_args)
    webui = (text for name, text in _WEB_INTERFACES.items() if written.read_by(name, facts.name))
    in_diffusers = (
        written.read_by("diffusers", facts.name) and network_module not in NOT_IN_DIFFUSERS
    )
    arguments = keyword_arguments(network_args)
    left_out = facts.left_out_by_comfyui(network_module, arguments) if trains_text else None
    return Loaders(
        kind=KIND_NAMES[written.kind],
        pipeline=facts.drawing.pipeline if in_diffusers else "",
        webui=", ".join(webui),
        has_comfyui=written.read_by("ComfyUI", facts.name),
        converter=facts.comfyui_converter,
        left_out=left_out.text if left_out else NO_TEXT,
    )

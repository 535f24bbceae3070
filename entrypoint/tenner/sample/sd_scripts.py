# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
"""Pipelines of the families that sd-scripts trains and the trainer's diffusers, 0.32, cannot draw.

Models, text encoding and LoRA networks are sd-scripts' own code, as in its inference scripts, which
load the model anew for each picture. The steps are Euler's, by diffusers' scheduler.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import diffusers
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from tenner.sample.job import SampleJob
from tenner.sample.parts import part_tensors

OnStep = Callable[[Any, int, Any, dict[str, Any]], Mapping[str, Any]]
"""diffusers' `callback_on_step_end`."""


def sd_scripts(job: SampleJob, module: str) -> Any:
    """A module of sd-scripts. Raises ValueError where it cannot be imported."""
    if not job.trainer:
        raise ValueError(
            f"{job.family} is drawn with sd-scripts, and the job names no folder of it"
        )
    if job.trainer not in sys.path:
        sys.path.insert(0, job.trainer)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} of sd-scripts cannot be imported: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a pipeline returns: one picture for each prompt."""

    images: list[Image.Image]


class SdScriptsPipeline(DiffusionPipeline):
    """As diffusers' own pipelines are used, with LoRAs that sd-scripts' networks apply.

    `networks` names sd-scripts' module of these networks.
    """

    networks: str
    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(
        self, scheduler: Any, vae: Any, text_encoder: Any, tokenizer: Any, transformer: Any
    ) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
        )
        self.loras: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """diffusers asks the first part for it, which may have no such property."""
        return next(self.transformer.parameters()).device

    @property
    def lora_encoders(self) -> list[Any]:
        """The text encoders, in the order in which sd-scripts' networks number them."""
        return [self.text_encoder]

    def load_lora_weights(self, folder: str, *, weight_name: str, adapter_name: str) -> None:
        """Apply the modules of the file that the model has. Raises KeyError where a module's alpha
        is missing, RuntimeError where its sizes are others."""
        tensors = part_tensors(str(Path(folder) / weight_name))
        networks = importlib.import_module(self.networks)
        encoders = self.lora_encoders
        network, _ = networks.create_network_from_weights(
            0.0, None, self.vae, encoders, self.transformer, tensors, for_inference=True
        )
        network.apply_to(encoders, self.transformer)
        modules = [*network.text_encoder_loras, *network.unet_loras]
        names = {each.lora_name for each in modules}
        network.load_state_dict(
            {name: each for name, each in tensors.items() if name.partition(".")[0] in names}
        )
        network.num_modules = len(modules)
        self.add_network(adapter_name, network)

    def add_network(self, adapter_name: str, network: Any) -> None:
        """Add a network that has been applied to the models, at strength 1."""
        self.loras[adapter_name] = network.eval()
        self.set_adapters([adapter_name], adapter_weights=[1.0])

    def count_loaded(self, adapters: set[str]) -> int:
        """The number of modules with one of these LoRAs."""
        return sum(each.num_modules for name, each in self.loras.items() if name in adapters)

    def set_adapters(self, names: Sequence[str], adapter_weights: Sequence[float]) -> None:
        """Set the strengths of these LoRAs, and switch all others off."""
        strengths = dict(zip(names, adapter_weights, strict=True))
        for name, network in self.loras.items():
            network.set_multiplier(strengths.get(name, 0.0))
            network.set_enabled(strengths.get(name, 0.0) != 0)

    def disable_lora(self) -> None:
        self.set_adapters([], [])

    def enable_lora(self) -> None:
        """Does nothing: `set_adapters` enables LoRAs."""

    def unload_lora_weights(self) -> None:
        """Switch all off. The modules stay replaced, so `count_loaded` still counts them."""
        self.disable_lora()

    def move_loras(self, device: torch.device, dtype: torch.dtype) -> None:
        for network in self.loras.values():
            network.to(device, dtype)


class Decoder(torch.nn.Module):
    """An autoencoder of sd-scripts whose `forward` makes pictures of latents, so that it is moved
    to the card when it is used."""

    def __init__(self, vae: Any, decode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.vae, self.decode = vae, decode

    @property
    def dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decode(latents)


class Guidance(Protocol):
    """How the flows with the prompt and with the negative prompt become one. It is made anew for
    each picture."""

    def applies(self, timestep: float) -> bool:
        """Whether the flow with the negative prompt is needed at `timestep`, 1000 (noise) to 0."""
        ...

    def guided(self, flow: torch.Tensor, without: torch.Tensor, step: int) -> torch.Tensor: ...


@dataclass(frozen=True, kw_only=True)
class PlainGuidance:
    """Classifier-free guidance (arXiv 2207.12598)."""

    scale: float

    def applies(self, timestep: float) -> bool:
        del timestep
        return self.scale != 1

    def guided(self, flow: torch.Tensor, without: torch.Tensor, step: int) -> torch.Tensor:
        del step
        return without + self.scale * (flow - without)


@dataclass(frozen=True, kw_only=True)
class At:
    """A step of a picture: its time from 1000 (noise) to 0, and the strength of guidance."""

    timestep: float
    guidance_scale: float


class FlowPipeline(SdScriptsPipeline):
    """Draws picture by picture. A family says how a prompt is encoded, what the model is given and
    how latents become a picture; sides are rounded up to multiples of `multiple` pixels for the
    model, and the picture is cut."""

    multiple: int

    def encoded(self, prompt: str, *, is_negative: bool, device: torch.device) -> Any:
        """What the model is given of a prompt."""
        raise NotImplementedError

    def noise(self, generator: torch.Generator, width: int, height: int) -> torch.Tensor:
        """Noise of one picture, in the shape of the model's latents."""
        raise NotImplementedError

    def flow(self, latents: torch.Tensor, at: At, text: Any) -> torch.Tensor:
        """The flow from picture to noise."""
        raise NotImplementedError

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """A picture of the shape (3, height, width), from -1 to 1."""
        raise NotImplementedError

    def guidance(self, scale: float, text: Any) -> Guidance:
        del text
        return PlainGuidance(scale=scale)

    def set_timesteps(self, num_steps: int, latents: torch.Tensor) -> None:
        """From 1 (noise) to 0 in equal parts, then shifted."""
        self.scheduler.set_timesteps(sigmas=equal_parts(num_steps), device=latents.device)

    @torch.no_grad()
    def __call__(
        self,
        *,
        prompt: list[str],
        negative_prompt: list[str] | None = None,
        width: int,
        height: int,
        num_inference_steps: int,
        guidance_scale: float,
        generator: list[torch.Generator],
        callback_on_step_end: OnStep,
    ) -> Drawn:
        device, dtype = self._execution_device, self.vae.dtype
        self.move_loras(device, dtype)
        texts = {each: self.encoded(each, is_negative=False, device=device) for each in prompt}
        without = negative_prompt or [""] * len(prompt)
        negatives = {
            each: self.encoded(each, is_negative=True, device=device)
            for each in negative_prompt or ()
        }
        sides = [-(-side // self.multiple) * self.multiple for side in (width, height)]
        drawn: list[torch.Tensor] = []
        for words, negative, random in zip(prompt, without, generator, strict=True):
            latents = self.noise(random, *sides).to(device, dtype)
            self.set_timesteps(num_inference_steps, latents)
            guidance = self.guidance(guidance_scale, texts[words])
            for index, timestep in enumerate(self.scheduler.timesteps):
                at = At(timestep=float(timestep), guidance_scale=guidance_scale)
                flow = self.flow(latents, at, texts[words])
                if guidance.applies(at.timestep):
                    plain = self.flow(latents, at, negatives[negative])
                    flow = guidance.guided(flow, plain, index)
                latents = self.scheduler.step(flow, timestep, latents, return_dict=False)[0]
                latents = latents.to(dtype)
                callback_on_step_end(self, index, timestep, {})
            drawn.append(latents)
        pictures = [self.decoded(each).float().cpu() for each in drawn]
        self.maybe_free_model_hooks()
        return as_images(torch.stack(pictures), width, height)


class TwoEncoderPipeline(FlowPipeline):
    """With a second text encoder."""

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"

    def __init__(
        self,
        scheduler: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        text_encoder_2: Any,
        tokenizer_2: Any,
        transformer: Any,
    ) -> None:
        super().__init__(scheduler, vae, text_encoder, tokenizer, transformer)
        self.register_modules(text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2)


def as_images(pictures: torch.Tensor, width: int, height: int) -> Drawn:
    """Pictures of the shape (number, 3, rows, columns), from -1 to 1, cut to this size."""
    processor: Any = VaeImageProcessor()
    images = processor.postprocess(pictures, output_type="pil")
    return Drawn(images=[each.crop((0, 0, width, height)) for each in images])


def equal_parts(num_steps: int) -> list[float]:
    """Times from 1 downwards, without the last one, 0."""
    return [1 - each / num_steps for each in range(num_steps)]


def flow_scheduler(shift: float) -> Any:
    """Euler's method from 1 (noise) to 0, with the time shifted."""
    library: Any = diffusers
    return library.FlowMatchEulerDiscreteScheduler(shift=shift)

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
"""Chroma as a pipeline: the transformer and the LoRA by sd-scripts' code, which trained them.

All else is as FLUX.1's: T5, autoencoder and schedule. Text masks and guidance of 0 inside the model
are those of the training (`library/chroma_models.py`, `flux_train_utils.py`). Sizes are read from
the tensors; nothing is fetched.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from tenner.sample.flux import AE, SCHEDULER, packed, positions, size_shift, unpacked
from tenner.sample.job import SampleJob
from tenner.sample.parts import (
    from_single_file,
    num_layers,
    open_t5,
    open_t5_tokenizer,
    part_tensors,
)
from tenner.sample.sd_scripts import (
    Drawn,
    OnStep,
    SdScriptsPipeline,
    as_images,
    equal_parts,
    sd_scripts,
)

_HEAD = 128
"""The width of an attention head: the sum of sd-scripts' axes of positions, 16, 56 and 56."""
_TOKENS = 512
"""Tokens of a prompt: sd-scripts' `t5xxl_max_token_length` for all models but schnell."""
_PATCH = 16
"""Pixels of a side of the patch that is one token."""


def open_chroma(job: SampleJob, dtype: torch.dtype) -> Any:
    """The pipeline, on the CPU. Raises OSError, KeyError, RuntimeError or ValueError where a file
    is not the expected one, or sd-scripts is missing."""
    library: Any = diffusers
    return ChromaPipeline(
        scheduler=library.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **SCHEDULER),
        vae=from_single_file(library.AutoencoderKL, job.further["ae"], AE, dtype),
        text_encoder=open_t5(part_tensors(job.further["t5xxl"]), dtype),
        tokenizer=open_t5_tokenizer(Path(job.tokenizers or "")),
        transformer=_transformer(job, dtype),
    )


def _transformer(job: SampleJob, dtype: torch.dtype) -> Any:
    """sd-scripts' model with the base's weights. Raises KeyError where one is missing."""
    tensors = {
        name.removeprefix("model.diffusion_model."): each
        for name, each in part_tensors(job.base).items()
    }
    models = sd_scripts(job, "library.chroma_models")
    hidden, _ = tensors["img_in.weight"].shape
    approximator, approximator_in = tensors["distilled_guidance_layer.in_proj.weight"].shape
    parameters = replace(
        models.chroma_params,
        hidden_size=hidden,
        num_heads=hidden // _HEAD,
        depth=num_layers(tensors, "double_blocks."),
        depth_single_blocks=num_layers(tensors, "single_blocks."),
        context_in_dim=tensors["txt_in.weight"].shape[1],
        approximator_in_dim=approximator_in,
        approximator_hidden_size=approximator,
        approximator_depth=num_layers(tensors, "distilled_guidance_layer.layers."),
    )
    with torch.device("meta"):
        model = models.Chroma(parameters)
    missing = model.state_dict().keys() - tensors.keys()
    if missing:
        raise KeyError(min(missing))
    model.load_state_dict(tensors, strict=False, assign=True)
    return model.to(dtype).eval()


class ChromaPipeline(SdScriptsPipeline):
    """Draws all pictures of a batch at once."""

    networks = "networks.lora_flux"

    @property
    def lora_encoders(self) -> list[Any]:
        return [None, self.text_encoder]

    @torch.no_grad()
    def __call__(
        self,
        *,
        prompt: list[str],
        negative_prompt: list[str],
        width: int,
        height: int,
        num_inference_steps: int,
        guidance_scale: float,
        generator: list[torch.Generator],
        callback_on_step_end: OnStep,
    ) -> Drawn:
        device = self._execution_device
        dtype = self.vae.dtype
        self.move_loras(device, dtype)
        guided = guidance_scale > 1
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            text = self._encoded([*negative_prompt, *prompt] if guided else prompt, device)
            rows, columns = -(-height // _PATCH), -(-width // _PATCH)
            shape = (1, 16, 2 * rows, 2 * columns)
            noise = [torch.randn(shape, generator=each) for each in generator]
            latents = packed(torch.cat(noise)).to(device)
            step = _Step(text=text, positions=positions(rows, columns).to(device), dtype=dtype)
            self._set_timesteps(num_inference_steps, rows * columns, device)
            for index, time in enumerate(self.scheduler.timesteps):
                flow = step.flow(self.transformer, latents, float(time) / 1000, guidance_scale)
                latents = self.scheduler.step(flow.float(), time, latents, return_dict=False)[0]
                callback_on_step_end(self, index, time, {})
            pictures = self._decoded(latents, rows, columns)
        self.maybe_free_model_hooks()
        return as_images(pictures, width, height)

    def _encoded(self, prompts: list[str], device: torch.device) -> tuple[torch.Tensor, ...]:
        """T5's hidden states (prompts, tokens, width) and the mask without the padding."""
        tokens = self.tokenizer(
            prompts,
            max_length=_TOKENS,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"].to(device)
        return self.text_encoder(tokens["input_ids"].to(device), mask)[0], mask

    def _set_timesteps(self, num_steps: int, num_tokens: int, device: torch.device) -> None:
        """sd-scripts' `get_schedule`: from 1 to 0, shifted by the picture's size."""
        self.scheduler.set_timesteps(
            sigmas=equal_parts(num_steps), mu=size_shift(self.scheduler, num_tokens), device=device
        )

    def _decoded(self, latents: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """The pictures of latents of the shape (pictures, tokens, 64)."""
        maps = unpacked(latents, rows, columns)
        own = self.vae.config
        decoded = self.vae.decode((maps / own.scaling_factor + own.shift_factor).to(self.vae.dtype))
        return decoded.sample.float()


@dataclass(frozen=True, kw_only=True)
class _Step:
    """The inputs that all steps of a batch share. With guidance `text` holds first the negative
    prompts, then the prompts."""

    text: tuple[torch.Tensor, ...]
    positions: torch.Tensor
    dtype: torch.dtype

    def flow(self, model: Any, latents: torch.Tensor, time: float, guidance: float) -> torch.Tensor:
        """The flow at `time`, which goes from 1 (noise) to 0. Only the model's `forward` is called,
        which moves it to the card where it does not lie there."""
        states, mask = self.text
        number = states.shape[0]
        doubled = torch.cat([latents] * (number // latents.shape[0])).to(self.dtype)
        times = torch.full((number,), time, device=latents.device)
        no_guidance = torch.zeros_like(times)  # `guidance_scale` 0, as it was trained
        flow = model(
            img=doubled,
            img_ids=self.positions.expand(number, -1, -1),
            txt=states,
            txt_ids=torch.zeros(*states.shape[:2], 3, device=states.device),
            y=None,
            timesteps=times,
            guidance=no_guidance,
            txt_attention_mask=mask,
        )
        if number == latents.shape[0]:
            return flow
        without, with_prompt = flow.float().chunk(2)
        return without + guidance * (with_prompt - without)

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
"""Lumina Image 2.0 as a pipeline, by sd-scripts' code (`lumina_minimal_inference.py`)."""

from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from tenner.sample.flux import AE
from tenner.sample.job import SampleJob
from tenner.sample.parts import from_single_file
from tenner.sample.sd_scripts import At, FlowPipeline, Guidance, flow_scheduler, sd_scripts

_SHIFT = 6.0
"""The inference script's `discrete_flow_shift`."""
_TOKENS = 256
"""Its `gemma2_max_token_length`."""


def open_lumina(job: SampleJob, dtype: torch.dtype) -> Any:
    """The pipeline, on the CPU. Raises OSError, KeyError, RuntimeError or ValueError where a file
    is not the expected one, or sd-scripts is missing."""
    util = sd_scripts(job, "library.lumina_util")
    strategy = sd_scripts(job, "library.strategy_lumina")
    library: Any = diffusers
    model = util.load_lumina_model(job.base, dtype, "cpu")
    encoder = util.load_gemma2(job.further["gemma2"], dtype, "cpu")
    return LuminaPipeline(
        scheduler=flow_scheduler(_SHIFT),
        vae=from_single_file(library.AutoencoderKL, job.further["ae"], AE, dtype),
        text_encoder=encoder.to(dtype).eval(),
        tokenizer=strategy.LuminaTokenizeStrategy(
            job.options.get("system_prompt"),
            job.options.get("gemma2_max_token_length", _TOKENS),
        ),
        transformer=model.to(dtype).eval().requires_grad_(False),
    )


@dataclass(frozen=True, kw_only=True)
class _Text:
    """Gemma's hidden states (1, tokens, width) of its last layer but one, and their mask."""

    states: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class _Renormalised:
    """Guidance in the first quarter of the time, with the length of the flow kept: the inference
    script's `cfg_trunc_ratio` 0.25 and `renorm_cfg` 1."""

    scale: float

    def applies(self, timestep: float) -> bool:
        return 1 - timestep / 1000 < 0.25

    def guided(self, flow: torch.Tensor, without: torch.Tensor, step: int) -> torch.Tensor:
        del step
        found = without + self.scale * (flow - without)
        longest = torch.linalg.vector_norm(flow)
        return found * (longest / torch.linalg.vector_norm(found)).clamp(max=1)


class LuminaPipeline(FlowPipeline):
    networks = "networks.lora_lumina"
    multiple = 16

    def encoded(self, prompt: str, *, is_negative: bool, device: torch.device) -> _Text:
        """The system prompt stands before prompts alone, as in the inference script."""
        tokens, mask = self.tokenizer.tokenize(prompt, is_negative=is_negative)
        states = self.text_encoder(
            input_ids=tokens.to(device), attention_mask=mask.to(device), output_hidden_states=True
        ).hidden_states[-2]
        return _Text(states=states, mask=mask.to(device, torch.int32))

    def noise(self, generator: torch.Generator, width: int, height: int) -> torch.Tensor:
        return torch.randn(1, 16, height // 8, width // 8, generator=generator)

    def flow(self, latents: torch.Tensor, at: At, text: _Text) -> torch.Tensor:
        """Lumina's time goes from 0 (noise) to 1, and its flow from noise to picture."""
        times = torch.full((1,), 1 - at.timestep / 1000, device=latents.device)
        with torch.autocast(latents.device.type, latents.dtype, latents.dtype != torch.float32):
            return -self.transformer(latents, times, cap_feats=text.states, cap_mask=text.mask)

    def guidance(self, scale: float, text: Any) -> Guidance:
        del text
        return _Renormalised(scale=scale)

    def set_timesteps(self, num_steps: int, latents: torch.Tensor) -> None:
        """The scheduler's own, whose last time is shifted twice: as in the inference script."""
        self.scheduler.set_timesteps(num_steps, device=latents.device)

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        own = self.vae.config
        return self.vae.decode(latents / own.scaling_factor + own.shift_factor).sample[0]

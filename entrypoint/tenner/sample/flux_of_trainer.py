# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
"""FLUX.1 as a pipeline, by sd-scripts' code: for networks whose modules diffusers' model has not.

The other parts are those of the pipeline that diffusers draws, and so is the picture.
"""

from dataclasses import dataclass
from typing import Any

import torch

from tenner.sample.flux import open_flux_parts, packed, positions, size_shift, unpacked
from tenner.sample.job import SampleJob
from tenner.sample.sd_scripts import (
    At,
    Guidance,
    PlainGuidance,
    TwoEncoderPipeline,
    equal_parts,
    sd_scripts,
)

_TOKENS = 512


def open_flux_of_trainer(job: SampleJob, dtype: torch.dtype) -> Any:
    """The pipeline, on the CPU. Raises OSError, KeyError, RuntimeError or ValueError where a file
    is not the expected one, or sd-scripts is missing."""
    utils = sd_scripts(job, "library.flux_utils")
    _, model = utils.load_flow_model(job.base, dtype, "cpu")
    return FluxOfTrainerPipeline(
        **open_flux_parts(job, dtype),
        transformer=model.to(dtype).eval().requires_grad_(False),
    )


@dataclass(frozen=True, kw_only=True)
class _Text:
    """CLIP's vector of the prompt (1, width) and T5's hidden states (1, tokens, width)."""

    vector: torch.Tensor
    states: torch.Tensor


class FluxOfTrainerPipeline(TwoEncoderPipeline):
    networks = "networks.lora_flux"
    multiple = 16

    @property
    def lora_encoders(self) -> list[Any]:
        return [self.text_encoder, self.text_encoder_2]

    def encoded(self, prompt: str, *, is_negative: bool, device: torch.device) -> _Text:
        del is_negative

        def tokens(tokenizer: Any, number: int) -> torch.Tensor:
            return tokenizer(
                [prompt],
                max_length=number,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            )["input_ids"].to(device)

        length = self.tokenizer.model_max_length
        return _Text(
            vector=self.text_encoder(tokens(self.tokenizer, length)).pooler_output,
            states=self.text_encoder_2(tokens(self.tokenizer_2, _TOKENS))[0],
        )

    def noise(self, generator: torch.Generator, width: int, height: int) -> torch.Tensor:
        return torch.randn(1, 16, height // 8, width // 8, generator=generator)

    def set_timesteps(self, num_steps: int, latents: torch.Tensor) -> None:
        """Shifted by the size of the picture, for schnell not at all."""
        shift = size_shift(self.scheduler, latents.shape[-2] * latents.shape[-1] // 4)
        self.scheduler.set_timesteps(
            sigmas=equal_parts(num_steps),
            mu=shift if self.scheduler.config.use_dynamic_shifting else None,
            device=latents.device,
        )

    def flow(self, latents: torch.Tensor, at: At, text: _Text) -> torch.Tensor:
        one = torch.ones(1, device=latents.device)
        rows, columns = (side // 2 for side in latents.shape[-2:])
        with torch.autocast(latents.device.type, latents.dtype, latents.dtype != torch.float32):
            flow = self.transformer(
                img=packed(latents),
                img_ids=positions(rows, columns).to(latents.device),
                txt=text.states,
                txt_ids=torch.zeros(1, text.states.shape[1], 3, device=latents.device),
                y=text.vector,
                timesteps=one * at.timestep / 1000,
                guidance=one * at.guidance_scale,
            )
        return unpacked(flow, rows, columns)

    def guidance(self, scale: float, text: Any) -> Guidance:
        """Its guidance is an input of the model."""
        del scale, text
        return PlainGuidance(scale=1)

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        own = self.vae.config
        return self.vae.decode(latents / own.scaling_factor + own.shift_factor).sample[0]

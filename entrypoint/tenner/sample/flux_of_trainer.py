# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
"""FLUX.1 as a pipeline, by sd-scripts' code: for networks whose modules diffusers' model has not.

The other parts are those of the pipeline that diffusers draws, and so is the picture.
"""

from dataclasses import dataclass
from typing import Any

import torch

from tenner.sample.flux import open_flux_parts
from tenner.sample.job import SampleJob
from tenner.sample.sd_scripts import (
    At,
    FlowPipeline,
    Guidance,
    PlainGuidance,
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


class FluxOfTrainerPipeline(FlowPipeline):
    networks = "networks.lora_flux"
    multiple = 16
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
        own = self.scheduler.config
        slope = (own.max_shift - own.base_shift) / (own.max_image_seq_len - own.base_image_seq_len)
        tokens = latents.shape[-2] * latents.shape[-1] // 4
        shift = own.base_shift + slope * (tokens - own.base_image_seq_len)
        self.scheduler.set_timesteps(
            sigmas=equal_parts(num_steps),
            mu=shift if own.use_dynamic_shifting else None,
            device=latents.device,
        )

    def flow(self, latents: torch.Tensor, at: At, text: _Text) -> torch.Tensor:
        one = torch.ones(1, device=latents.device)
        _, _, height, width = latents.shape
        rows, columns = height // 2, width // 2
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(1, -1, 3)
        maps = latents.view(1, -1, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
        flow = self.transformer(
            img=maps.reshape(1, rows * columns, -1),
            img_ids=places.to(latents.device).float(),
            txt=text.states,
            txt_ids=torch.zeros(1, text.states.shape[1], 3, device=latents.device),
            y=text.vector,
            timesteps=one * at.timestep / 1000,
            guidance=one * at.guidance_scale,
        )
        tokens = flow.view(1, rows, columns, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return tokens.reshape(latents.shape)

    def guidance(self, scale: float, text: Any) -> Guidance:
        """Its guidance is an input of the model."""
        del scale, text
        return PlainGuidance(scale=1)

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        own = self.vae.config
        return self.vae.decode(latents / own.scaling_factor + own.shift_factor).sample[0]

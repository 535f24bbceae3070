# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
"""Anima as a pipeline, by sd-scripts' code (`anima_minimal_inference.py`)."""

from dataclasses import dataclass
from typing import Any

import torch

from tenner.sample.job import SampleJob
from tenner.sample.sd_scripts import At, Decoder, FlowPipeline, flow_scheduler, sd_scripts

_SHIFT = 5.0
"""The inference script's `flow_shift`."""
_TOKENS = 512


def open_anima(job: SampleJob, dtype: torch.dtype) -> Any:
    """The pipeline, on the CPU. Raises OSError, KeyError, RuntimeError or ValueError where a file
    is not the expected one, or sd-scripts is missing."""
    utils = sd_scripts(job, "library.anima_utils")
    autoencoder = sd_scripts(job, "library.qwen_image_autoencoder_kl")
    strategy = sd_scripts(job, "library.strategy_anima")
    qwen3 = job.further["qwen3"]
    encoder, _ = utils.load_qwen3_text_encoder(qwen3, dtype=dtype, device="cpu")
    model = utils.load_anima_model("cpu", job.base, "torch", True, "cpu", dtype)
    vae = autoencoder.load_vae(job.further["vae"], device="cpu").to(dtype).eval()
    return AnimaPipeline(
        scheduler=flow_scheduler(_SHIFT),
        vae=Decoder(vae, vae.decode_to_pixels),
        text_encoder=encoder.eval(),
        tokenizer=strategy.AnimaTokenizeStrategy(
            qwen3_path=qwen3, qwen3_max_length=_TOKENS, t5_max_length=_TOKENS
        ),
        transformer=model.to(dtype).eval().requires_grad_(False),
    )


@dataclass(frozen=True, kw_only=True)
class _Text:
    """Qwen3's hidden states (1, tokens, width) and their mask, and T5's tokens and their mask,
    which the model's adapter makes its text from."""

    states: torch.Tensor
    mask: torch.Tensor
    t5_tokens: torch.Tensor
    t5_mask: torch.Tensor


class AnimaPipeline(FlowPipeline):
    networks = "networks.lora_anima"
    multiple = 16

    def encoded(self, prompt: str, *, is_negative: bool, device: torch.device) -> _Text:
        del is_negative
        tokens, mask, t5_tokens, t5_mask = (
            each.to(device) for each in self.tokenizer.tokenize(prompt)
        )
        states = self.text_encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        states[~mask.bool()] = 0
        return _Text(states=states, mask=mask, t5_tokens=t5_tokens, t5_mask=t5_mask)

    def noise(self, generator: torch.Generator, width: int, height: int) -> torch.Tensor:
        return torch.randn(1, 16, 1, height // 8, width // 8, generator=generator)

    def flow(self, latents: torch.Tensor, at: At, text: _Text) -> torch.Tensor:
        return self.transformer(
            latents,
            torch.full((1,), at.timestep / 1000, device=latents.device, dtype=latents.dtype),
            text.states,
            padding_mask=latents.new_zeros(1, 1, *latents.shape[-2:]),
            source_attention_mask=text.mask,
            target_input_ids=text.t5_tokens,
            target_attention_mask=text.t5_mask,
        )

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        pixels = self.vae(latents)
        return (pixels.squeeze(2) if pixels.ndim == 5 else pixels)[0]

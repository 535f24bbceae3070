# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
"""HunyuanImage 2.1 as a pipeline, by sd-scripts' code (`hunyuan_image_minimal_inference.py`)."""

from dataclasses import dataclass, field
from typing import Any

import torch

from tenner.sample.job import SampleJob
from tenner.sample.sd_scripts import (
    At,
    Decoder,
    Guidance,
    TwoEncoderPipeline,
    flow_scheduler,
    sd_scripts,
)

_SHIFT = 5.0
"""The inference script's `flow_shift`."""
_CHUNK = 16
"""Rows that the autoencoder decodes at a time: its `vae_chunk_size`, which it recommends so."""
_PIXELS = 32
"""Pixels of a side of one latent."""


def open_hunyuan_image(job: SampleJob, dtype: torch.dtype) -> Any:
    """The pipeline, on the CPU. Raises OSError, KeyError, RuntimeError or ValueError where a file
    is not the expected one, or sd-scripts is missing."""
    models = sd_scripts(job, "library.hunyuan_image_models")
    texts = sd_scripts(job, "library.hunyuan_image_text_encoder")
    autoencoder = sd_scripts(job, "library.hunyuan_image_vae")
    tokenizer, encoder = texts.load_qwen2_5_vl(job.further["text_encoder"], dtype, "cpu")
    tokenizer_2, encoder_2 = texts.load_byt5(job.further["byt5"], dtype, "cpu")
    model = models.load_hunyuan_image_model("cpu", job.base, "torch", True, "cpu", dtype)
    rows = min(job.of_cell(each).height for each in job.cells) // _PIXELS
    chunk = _CHUNK if rows >= 2 * _CHUNK else None  # its code fails on fewer rows
    vae = autoencoder.load_vae(job.further["vae"], "cpu", chunk_size=chunk).to(dtype).eval()
    pipe = HunyuanImagePipeline(
        scheduler=flow_scheduler(_SHIFT),
        vae=Decoder(vae, lambda latents: vae.decode(latents / vae.scaling_factor)),
        text_encoder=encoder.to(dtype).eval(),
        tokenizer=tokenizer,
        text_encoder_2=encoder_2.to(dtype).eval(),
        tokenizer_2=tokenizer_2,
        transformer=model.to(dtype).eval().requires_grad_(False),
    )
    pipe.code = _Code(texts=texts, utils=sd_scripts(job, "library.hunyuan_image_utils"))
    return pipe


@dataclass(frozen=True, kw_only=True)
class _Code:
    """sd-scripts' modules of text encoding and of guidance."""

    texts: Any
    utils: Any


class _OnDevice:
    """A text encoder that names the device it runs on, where its weights may lie elsewhere."""

    def __init__(self, module: Any, device: torch.device) -> None:
        self.module, self.device, self.dtype = module, device, module.dtype

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.module(*given, **named)


@dataclass(frozen=True, kw_only=True)
class _Text:
    """Hidden states (1, tokens, width) and mask of Qwen2.5-VL, and those of byT5, which reads words
    between quotation marks alone; `is_ocr` is whether there are any."""

    states: torch.Tensor
    mask: torch.Tensor
    byt5_states: torch.Tensor
    byt5_mask: torch.Tensor
    is_ocr: bool


@dataclass(kw_only=True)
class _Projected:
    """Guidance that becomes adaptive projected guidance (arXiv 2410.02416) after some steps, later
    for pictures with written words."""

    utils: Any
    scale: float
    is_ocr: bool
    later: Any = field(init=False)

    def __post_init__(self) -> None:
        self.later = self.utils.AdaptiveProjectedGuidance(
            guidance_scale=10.0,
            eta=0.0,
            adaptive_projected_guidance_rescale=10.0,
            adaptive_projected_guidance_momentum=-0.5,
            guidance_rescale=0.0,
        )

    def applies(self, timestep: float) -> bool:
        del timestep
        return self.scale != 1

    def guided(self, flow: torch.Tensor, without: torch.Tensor, step: int) -> torch.Tensor:
        return self.utils.apply_classifier_free_guidance(
            flow,
            without,
            self.is_ocr,
            self.scale,
            step,
            cfg_guider_ocr=self.later,
            cfg_guider_general=self.later,
        )


class HunyuanImagePipeline(TwoEncoderPipeline):
    networks = "networks.lora_hunyuan_image"
    multiple = _PIXELS
    code: _Code

    @property
    def lora_encoders(self) -> list[Any]:
        return []

    def encoded(self, prompt: str, *, is_negative: bool, device: torch.device) -> _Text:
        del is_negative
        texts = self.code.texts
        states, mask = texts.get_qwen_prompt_embeds(
            self.tokenizer, _OnDevice(self.text_encoder, device), prompt
        )
        is_ocr, byt5_states, byt5_mask = texts.get_glyph_prompt_embeds(
            self.tokenizer_2, _OnDevice(self.text_encoder_2, device), prompt
        )
        dtype = self.vae.dtype
        return _Text(
            states=states.to(device, dtype),
            mask=mask.to(device, dtype),
            byt5_states=byt5_states.to(device, dtype),
            byt5_mask=byt5_mask.to(device, dtype),
            is_ocr=is_ocr[0],
        )

    def noise(self, generator: torch.Generator, width: int, height: int) -> torch.Tensor:
        channels = self.transformer.in_channels
        return torch.randn(1, channels, height // _PIXELS, width // _PIXELS, generator=generator)

    def flow(self, latents: torch.Tensor, at: At, text: _Text) -> torch.Tensor:
        times = torch.full((1,), int(at.timestep), device=latents.device)
        return self.transformer(
            latents, times, text.states, text.mask, text.byt5_states, text.byt5_mask
        )

    def guidance(self, scale: float, text: _Text) -> Guidance:
        return _Projected(utils=self.code.utils, scale=scale, is_ocr=text.is_ocr)

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae(latents)[0]

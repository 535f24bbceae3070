# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""A base model and a LoRA as a diffusers pipeline, without downloads.

The LoRA is loaded by diffusers' own `load_lora_weights`, which also tests whether other programs
can load the file.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils.logging import disable_progress_bar
from safetensors import safe_open

from tenner.base.tokenizers import open_clip_tokenizer
from tenner.core.errors import SettingsError
from tenner.core.family import Family
from tenner.core.messages import joined, msg
from tenner.core.safetensors_head import data_start, read_safetensors_header
from tenner.families import FAMILIES
from tenner.kohya.networks import LYCORIS
from tenner.sample.anima import open_anima
from tenner.sample.chroma import open_chroma
from tenner.sample.flux import open_flux
from tenner.sample.flux_of_trainer import open_flux_of_trainer
from tenner.sample.hunyuan_image import open_hunyuan_image
from tenner.sample.job import SampleJob
from tenner.sample.lumina import open_lumina
from tenner.sample.lycoris import (
    LycorisNetwork,
    read_network,
    transformer_targets,
    unet_targets,
)
from tenner.sample.parts import part_tensors
from tenner.sample.png_text import LoraTag
from tenner.sample.sd3 import open_sd3
from tenner.sample.sd3_lora import renamed
from tenner.sample.sd_scripts import SdScriptsPipeline
from tenner.sample.single_file import open_single_file

ADAPTERS = {False: "tenner", True: "tenner-ema"}
"""Names of the LoRA and of its moving average, by `Cell.ema`."""

# sd-scripts' `sample_sampler` -> diffusers' scheduler and changes of its configuration
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "k_lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "k_euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "k_euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "k_dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "k_dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {}),
}


_TRANSFORMERS: dict[Family, Callable[[SampleJob, torch.dtype], Any]] = {
    "anima": open_anima,
    "chroma": open_chroma,
    "flux": open_flux,
    "flux-schnell": open_flux,
    "hunyuan-image": open_hunyuan_image,
    "lumina2": open_lumina,
    "sd3": open_sd3,
    "sd35-medium": open_sd3,
    "sd35-large": open_sd3,
}
"""Pipelines that are put together from the families' single files."""


_OF_TRAINER = {"flux": open_flux_of_trainer, "flux-schnell": open_flux_of_trainer}
"""sd-scripts' own model in place of diffusers', for networks that are made for its modules."""


def _opener(job: SampleJob) -> Callable[[SampleJob, torch.dtype], Any] | None:
    of_trainer = _OF_TRAINER.get(job.family) if job.network_module == LYCORIS else None
    return of_trainer or _TRANSFORMERS.get(job.family)


class LoadError(Exception):
    """The base or the LoRA cannot be loaded; the text has the reason."""


def load_pipeline(job: SampleJob) -> Any:
    """The pipeline of the job's base, on its device, in its dtype, without progress bars.

    Raises LoadError.
    """
    disable_progress_bar()
    dtype: torch.dtype = getattr(torch, job.dtype)
    facts = FAMILIES[job.family]
    opened = _opener(job)
    try:
        pipe = (
            opened(job, dtype)
            if opened
            else _from_pretrained(getattr(diffusers, facts.drawing.pipeline), job, dtype)
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise LoadError(
            msg(
                "the base model {name} cannot be loaded: {error}",
                name=Path(job.base).name,
                error=error,
            )
        ) from error
    if facts.transformer is None:
        pipe.scheduler = scheduler_for(pipe.scheduler, job)
    pipe.set_progress_bar_config(disable=True)
    if not isinstance(pipe, SdScriptsPipeline):
        pipe.vae.enable_slicing()
    return pipe if facts.transformer else pipe.to(job.device)


def _from_pretrained(kind: Any, job: SampleJob, dtype: torch.dtype) -> Any:
    known: dict[str, Any] = {"torch_dtype": dtype, "local_files_only": True}
    if job.family != "sdxl":
        known |= {"safety_checker": None, "requires_safety_checker": False}
    base = Path(job.base)
    if base.is_dir():
        names = [each for each in ("tokenizer", "tokenizer_2") if (base / each).is_dir()]
        known |= {each: open_clip_tokenizer(base / each) for each in names}
        return kind.from_pretrained(job.base, **known)
    return open_single_file(kind, job, dtype)


def scheduler_for(found: Any, job: SampleJob) -> Any:
    """The scheduler that the job names, with the noise schedule and prediction type of the base.

    Zero terminal SNR needs the last timestep, so spacing becomes `trailing` (arXiv 2305.08891).
    """
    name, changes = SCHEDULERS[job.sampler] if job.sampler else (type(found).__name__, {})
    arguments = dict(changes)
    if name in {"DDIMScheduler", "DDPMScheduler"}:
        arguments["clip_sample"] = False  # their default clips to -1..1, where latents are wider
    if job.v_parameterization:
        arguments["prediction_type"] = "v_prediction"
    if job.zero_terminal_snr or found.config.get("rescale_betas_zero_snr"):
        arguments |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return getattr(diffusers, name).from_config(found.config, **arguments)


class _Records(logging.Handler):
    """Records the warnings of a library."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def load_lora(
    pipe: Any, path: Path, adapter: str = ADAPTERS[False], network_module: str = ""
) -> str | None:
    """Load the LoRA as anyone with diffusers, or with sd-scripts or LyCORIS, would; return a
    complaint, or None where all fits.

    Raises LoadError where the file is refused. A complaint means that only a part was taken: the
    number of modules in the file and in the pipeline differ.
    """
    program = "LyCORIS" if network_module == LYCORIS else _loader(pipe)
    records = _Records()
    loggers = [logging.getLogger(name) for name in ("diffusers", "peft")]
    for each in loggers:
        each.addHandler(records)
    left_out = 0
    try:
        if network_module == LYCORIS:
            _load_lycoris(pipe, path, adapter)
        elif type(pipe).__name__ == "StableDiffusion3Pipeline":
            lora = renamed(part_tensors(str(path)), pipe.transformer.config.num_layers)
            left_out = len(lora.unknown)
            pipe.load_lora_weights(lora.tensors, adapter_name=adapter)
        else:
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=adapter)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise LoadError(
            msg(
                "{program} cannot load {name}: {error}",
                program=program,
                name=path.name,
                error=error,
            )
        ) from error
    finally:
        for each in loggers:
            each.removeHandler(records)
    in_file = _count_prefixes(path) if network_module == LYCORIS else count_modules(path)
    loaded = count_loaded(pipe, adapter)
    if getattr(pipe, "transformer", None) is not None:  # a fused layer of the file is several there
        loaded = min(loaded, in_file - left_out)
    if not loaded:
        raise LoadError(msg("{name} holds nothing that changes this base model", name=path.name))
    if in_file == loaded:
        return None
    words = msg(
        "{program} loaded {loaded} of the {in_file} LoRA modules in {name}",
        program=program,
        loaded=loaded,
        in_file=in_file,
        name=path.name,
    )
    return joined(words, *records.texts)


def _load_lycoris(pipe: Any, path: Path, adapter: str) -> None:
    if isinstance(pipe, SdScriptsPipeline):
        targets = transformer_targets(pipe.transformer, pipe.lora_encoders)
        pipe.add_network(adapter, read_network(path, targets))
        return
    network = read_network(path, unet_targets(pipe))
    pipe.lycoris = network.to(pipe.device, pipe.unet.dtype)


def _loader(pipe: Any) -> str:
    """The program whose code puts a LoRA into the pipeline."""
    return "sd-scripts" if isinstance(pipe, SdScriptsPipeline) else "diffusers"


def count_modules(path: Path) -> int:
    """How many modules the LoRA file changes."""
    with safe_open(str(path), framework="pt") as file:
        return sum(
            key.endswith((".lora_down.weight", ".lora_A.weight")) for key in list(file.keys())
        )


def _count_prefixes(path: Path) -> int:
    """As `count_modules`, of any kind of network, by sd-scripts' names."""
    with safe_open(str(path), framework="pt") as file:
        return len({name.partition(".")[0] for name in list(file.keys())})


def count_loaded(pipe: Any, *adapters: str) -> int:
    """How many modules of the pipeline carry one of these LoRAs, or any."""
    names = set(adapters or ADAPTERS.values())
    if isinstance(pipe, SdScriptsPipeline):
        return pipe.count_loaded(names)
    if network := _lycoris_of(pipe):
        return network.num_modules
    kinds = ("unet", "transformer", "text_encoder", "text_encoder_2")
    parts = (getattr(pipe, name, None) for name in kinds)
    return sum(
        1
        for part in parts
        if part is not None
        for module in part.modules()
        if not names.isdisjoint(getattr(module, "lora_A", {}))
    )


def set_strength(pipe: Any, strength: float, adapter: str = ADAPTERS[False]) -> None:
    """Set the LoRA's strength; 0 switches it off."""
    if network := _lycoris_of(pipe):
        network.set_multiplier(strength)
        network.set_enabled(strength != 0)
    elif strength == 0:
        pipe.disable_lora()
    else:
        pipe.enable_lora()
        pipe.set_adapters([adapter], adapter_weights=[strength])


def _lycoris_of(pipe: Any) -> LycorisNetwork | None:
    return getattr(pipe, "lycoris", None)


def lora_tag(path: Path) -> LoraTag:
    """Name and short hash of a LoRA file: the hash of all bytes after the safetensors header.

    A1111 and Civitai identify a LoRA by the first 12 digits of this hash, which does not depend on
    the metadata. Raises LoadError where the file is not one.
    """
    digest = hashlib.sha256()
    try:
        read_safetensors_header(path)
    except SettingsError as error:
        raise LoadError(error.problems[0].text) from None
    with path.open("rb") as file:
        file.seek(data_start(path))
        while block := file.read(1 << 20):
            digest.update(block)
    return LoraTag(name=path.stem, short_hash=digest.hexdigest()[:12])

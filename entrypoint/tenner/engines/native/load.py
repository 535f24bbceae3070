"""The base model's tensors and configurations, from a diffusers folder or a checkpoint file.

Nothing is downloaded. U-Net, text encoders and the VAE's encoder are tensors for our own layers,
read from the disk when they are looked up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from tenner.core.json_text import read_object
from tenner.core.messages import msg
from tenner.core.safetensors_head import weight_files
from tenner.core.train_job import TrainJob
from tenner.engines.native.checkpoint import CheckpointFile
from tenner.engines.native.tensor_file import Renamed, TensorFile
from tenner.engines.native.vae import VaeEncoder


class BaseModelError(Exception):
    """The base model cannot be used: `text` is the reason, `fix` what to do."""

    def __init__(self, text: str, fix: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.fix = fix


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """One text encoder: its configuration, its tensors by transformers' names without the
    `text_model.` prefix, and the folder of its tokenizer."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer: Path


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A base model that is not yet on any device."""

    unet_config: Mapping[str, Any]
    unet: Mapping[str, Tensor]
    texts: tuple[TextSource, ...]
    scheduler: Mapping[str, Any]
    vae_path: Path
    vae_config: Mapping[str, Any] | None
    """None where `vae_path` is a diffusers folder that has its own."""


def load_base(job: TrainJob) -> BaseModel:
    """The base that the job names. Raises BaseModelError."""
    path = Path(job.base)
    try:
        if path.is_dir():
            return _from_folder(path, job)
        return _from_checkpoint(path, job)
    except BaseModelError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise BaseModelError(
            msg("the base model {name} cannot be read: {error}", name=path.name, error=error),
            fix=msg("name a diffusers folder or a .safetensors checkpoint of SD 1.x, 2.x or SDXL"),
        ) from error


def load_vae(base: BaseModel) -> VaeEncoder:
    """The VAE's encoder in fp32. Raises BaseModelError."""
    try:
        if base.vae_config is None:
            config = _json(base.vae_path / "config.json")
            return VaeEncoder(config, _tensors(base.vae_path))
        return VaeEncoder(base.vae_config, CheckpointFile(base.vae_path).vae())
    except (OSError, KeyError, ValueError) as error:
        missing = isinstance(error, KeyError)
        reason = msg("{args} is missing", args=error.args[0]) if missing else str(error)
        raise BaseModelError(
            msg(
                "the VAE in {name} cannot be read: {reason}", name=base.vae_path.name, reason=reason
            ),
            fix=msg("name a complete base model, or another VAE"),
        ) from error


def vae_files(base: BaseModel) -> list[Path]:
    """The files that hold the VAE's weights."""
    return _weight_files(base.vae_path) if base.vae_path.is_dir() else [base.vae_path]


def _from_folder(path: Path, job: TrainJob) -> BaseModel:
    names = ("text_encoder", "text_encoder_2") if job.family == "sdxl" else ("text_encoder",)
    tokenizers = (job.tokenizer, job.tokenizer_2)
    texts: list[TextSource] = []
    for name, given in zip(names, tokenizers, strict=False):
        own = path / name.replace("text_encoder", "tokenizer")
        tensors = {
            key.removeprefix("text_model."): value for key, value in _tensors(path / name).items()
        }
        texts.append(
            TextSource(
                config=_json(path / name / "config.json"),
                tensors=tensors,
                tokenizer=Path(given) if given else own,
            )
        )
    scheduler = path / "scheduler" / "scheduler_config.json"
    vae = Path(job.vae) if job.vae else path / "vae"
    return BaseModel(
        unet_config=_json(path / "unet" / "config.json"),
        unet=_tensors(path / "unet"),
        texts=tuple(texts),
        scheduler=_json(scheduler) if scheduler.is_file() else {},
        vae_path=vae,
        vae_config=None if vae.is_dir() else _shipped("vae", job.family),
    )


def _from_checkpoint(path: Path, job: TrainJob) -> BaseModel:
    file = CheckpointFile(path)
    unet_config = _shipped("unet", job.family)
    configs = [_shipped("text_encoder", job.family)]
    tensors = [file.text(job.family)]
    if job.family == "sdxl":
        configs.append(_shipped("text_encoder_2", job.family))
        tensors.append(file.second_text())
    tokenizers = (job.tokenizer, job.tokenizer_2)
    vae = Path(job.vae) if job.vae else path
    return BaseModel(
        unet_config=unet_config,
        unet=file.unet(unet_config),
        texts=tuple(
            TextSource(config=config, tensors=each, tokenizer=_tokenizer(given, index))
            for index, (config, each, given) in enumerate(
                zip(configs, tensors, tokenizers, strict=False)
            )
        ),
        scheduler={},
        vae_path=vae,
        vae_config=None if vae.is_dir() else _shipped("vae", job.family),
    )


def _tokenizer(given: str | None, index: int) -> Path:
    if given is None:
        raise BaseModelError(
            msg("a single-file base holds no tokenizer, and none was given"),
            fix=msg("name a CLIP tokenizer folder (tokenizer{what})", what="_2" if index else ""),
        )
    return Path(given)


def _shipped(part: str, family: str) -> dict[str, Any]:
    """The published configuration of a family's part, as shipped with this package."""
    configs = _json(Path(__file__).parent / "configs.json")
    return cast("dict[str, Any]", configs[family][part])


def _json(path: Path) -> dict[str, Any]:
    return read_object(path)


def _tensors(folder: Path) -> Mapping[str, Tensor]:
    """All tensors of a diffusers or transformers folder, each read when it is taken."""
    return Renamed.joined([TensorFile(file) for file in _weight_files(folder)])


def _weight_files(folder: Path) -> list[Path]:
    if found := weight_files(folder):
        return found
    raise BaseModelError(
        msg("no safetensors weights in {name}/", name=folder.name),
        fix=msg("use a base model saved as .safetensors (not .bin or .ckpt)"),
    )

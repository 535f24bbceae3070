# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""A base in one `.safetensors`, opened by diffusers without a configuration from the Hub.

diffusers' `from_single_file` takes a folder in diffusers layout as `config`; it is written here,
from the published configurations of Stable Diffusion 1.5, 2.1 and XL 1.0 in `architectures.json`,
with links to the CLIP tokenizers.
"""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from tenner.core.family import Family
from tenner.core.temporary_files import temporary_folder
from tenner.sample.job import SampleJob

# Folder names of the CLIP tokenizers, as sd-scripts' `--tokenizer_cache_dir` names them
CLIP_L = "openai_clip-vit-large-patch14"
CLIP_G = "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"

_TOKENIZERS: dict[Family, dict[str, str]] = {
    "sd1": {"tokenizer": CLIP_L},
    "sd2": {"tokenizer": CLIP_L},
    "sdxl": {"tokenizer": CLIP_L, "tokenizer_2": CLIP_G},
}
# Padding tokens of SD 2.x and of SDXL's second text encoder; SD 1.x pads with the end token
_PAD: dict[tuple[Family, str], str] = {("sd2", "tokenizer"): "!", ("sdxl", "tokenizer_2"): "!"}


def open_single_file(kind: Any, job: SampleJob, dtype: Any) -> Any:
    """The pipeline of class `kind` in the job's single file.

    Raises ValueError where the tokenizers are not there; OSError, KeyError, RuntimeError or
    ValueError as diffusers does where the file is not such a model.
    """
    with temporary_folder("base") as folder:
        write_layout(Path(folder), job.family, Path(job.tokenizers or ""))
        more: dict[str, Any] = {}
        if job.family != "sdxl":
            more = {"safety_checker": None, "requires_safety_checker": False}
        return kind.from_single_file(
            job.base, config=folder, torch_dtype=dtype, local_files_only=True, **more
        )


def write_layout(folder: Path, family: Family, tokenizers: Path) -> None:
    """Configurations and tokenizers of a family, in diffusers layout, without weights."""
    parts = _architectures()[family]
    for name, config in parts.items():
        if name == "model_index":
            (folder / "model_index.json").write_text(json.dumps(config))
            continue
        (folder / name).mkdir()
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / name / file).write_text(json.dumps(config))
    for name, source in _TOKENIZERS[family].items():
        found = next(
            (each for each in (tokenizers / source, tokenizers / CLIP_L) if each.is_dir()), None
        )
        if found is None or not _has_tokenizer(found):
            raise ValueError(f"there is no tokenizer {source} in {tokenizers}")
        shutil.copytree(found, folder / name)
        if pad := _PAD.get((family, name)):
            settings_path = folder / name / "tokenizer_config.json"
            settings = json.loads(settings_path.read_text(encoding="utf-8"))
            settings_path.write_text(json.dumps({**settings, "pad_token": pad}))
            (folder / name / "special_tokens_map.json").unlink(missing_ok=True)


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()


def _architectures() -> dict[Family, dict[str, dict[str, Any]]]:
    text = files("tenner.sample").joinpath("architectures.json").read_text(encoding="utf-8")
    return json.loads(text)

"""What the base weights at a path are: of which family, in which layout, whole or not.

Everything is read from small files and file headers: no weights are loaded and nothing of torch is
imported, so that a wrong base is reported in milliseconds. Families are read from the tensors
themselves, never from a file's name.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tenner.base.model import SIDES, Base, with_checkpoint_prediction, with_evidence
from tenner.base.prediction import SCHEDULER_FILE, betas_of, evidence_in_folder
from tenner.base.quantised import quantised
from tenner.core.errors import Problem, SettingsError
from tenner.core.family import Family
from tenner.core.json_text import read_object
from tenner.core.messages import Message, msg
from tenner.core.safetensors_head import read_safetensors_header, tensor_entries
from tenner.families import FAMILIES, family_of_shapes, variant_of
from tenner.families.others import other_kind, other_model


def inspect_base(path: Path, *, name: str, sha256: str | None = None) -> Base:
    """What the base at `path` is. Raises SettingsError with what is wrong with it.

    Of a file that has no more than its head here, `sha256` is what is known of the whole one.
    """
    return _inspect_folder(path, name) if path.is_dir() else _inspect_checkpoint(path, name, sha256)


def _inspect_checkpoint(path: Path, name: str, sha256: str | None) -> Base:
    header = read_safetensors_header(path)
    entries = tensor_entries(header)
    family = family_of_tensors({key: each["shape"] for key, each in entries.items()}, path)
    if how := quantised(entries):
        raise SettingsError(
            msg("{path} is quantised: {how}", path=path, how=how),
            fix=msg(
                "take the model's plain file in 16 bits; where the card is small, the plan holds"
                " it in 8 bits itself if its family can be"
            ),
        )
    base = Base(
        name=name,
        path=path,
        family=family,
        layout="checkpoint",
        prediction=None,
        zero_terminal_snr=False,
        resolution=SIDES[family],
        num_bytes=path.stat().st_size,
    )
    return with_checkpoint_prediction(base, header, sha256=sha256)


def family_of_tensors(shapes: Mapping[str, list[int]], path: Path) -> Family:
    """The family of a single-file checkpoint, by its tensors' names and shapes.

    Raises SettingsError for files that are no base of these families: a LoRA, a VAE, an inpainting
    or refiner model, another architecture.
    """
    if refused := other_kind(shapes) or _refused(shapes):
        raise SettingsError(
            msg("{path} is {refused}", path=path, refused=refused[0]), fix=refused[1]
        )
    if other := other_model(shapes):
        raise SettingsError(
            msg(
                "{path} is {other}, which is not among the families that tenner trains",
                path=path,
                other=other,
            ),
            fix=msg("see docs/families.md for those that it trains"),
        )
    if found := family_of_shapes(shapes):
        if variant := variant_of(found, shapes, path.name):
            raise SettingsError(
                msg("{path} is {what}", path=path, what=variant.what), fix=variant.fix
            )
        return found
    if any(_DIFFUSERS_NAMES.match(key) for key in shapes):
        raise SettingsError(
            msg(
                "{path} is a transformer under diffusers' names, which sd-scripts does not read"
                " from one file",
                path=path,
            ),
            fix=msg("take the file of the model's own authors: docs/families.md names those"),
        )
    if any(_TRANSFORMER.match(key) for key in shapes):
        raise SettingsError(
            msg("{path} is a transformer model of a family that tenner does not train", path=path),
            fix=msg("see docs/families.md for those that it trains"),
        )
    raise SettingsError(
        msg("{path} is not a checkpoint of a family that tenner knows", path=path),
        fix=msg(
            "take a full checkpoint of SD 1.x, 2.x or SDXL (U-Net, text encoder and VAE in one"
            " file), or the transformer of another family (docs/families.md)"
        ),
    )


_TRANSFORMER = re.compile(
    r"(model\.diffusion_model\.)?(double_blocks|joint_blocks|transformer_blocks|blocks|layers)\.\d"
)


_DIFFUSERS_NAMES = re.compile(
    r"single_transformer_blocks\.\d+\.attn\.to_q\.|transformer_blocks\.\d+\.attn\.add_q_proj\."
)


def _refused(shapes: Mapping[str, list[int]]) -> tuple[Message, Message] | None:
    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in shapes)

    first = shapes.get("model.diffusion_model.input_blocks.0.0.weight", [])
    channels = first[1] if len(first) > 1 else 4
    if channels in (8, 9):
        return msg("an inpainting or editing model"), msg(
            "train on the plain model it was made from"
        )
    if has(r"conditioner\.embedders\.0\.model\.") and not has(r"conditioner\.embedders\.1\."):
        return msg("the SDXL refiner"), msg("train on the SDXL base")
    if has(r"encoder\.block\.\d|text_model\.|model\.layers\.\d"):
        return msg("a text encoder alone"), msg("name the model itself as base_model")
    if has(r"(first_stage_model|encoder|decoder)\.") and not has(r"model\.diffusion_model\."):
        return msg("a VAE alone"), msg(
            "name it as vae (as ae for FLUX.1, Chroma and Lumina), and the model as base_model"
        )
    return None


def _inspect_folder(path: Path, name: str) -> Base:
    _refuse_transformer_folder(path)
    parts = ("unet", "vae", "text_encoder")
    problems = [
        Problem(
            text=msg("{path} has no {part}/config.json", path=path, part=part),
            fix=msg("take the model's whole folder"),
        )
        for part in parts
        if not (path / part / "config.json").is_file()
    ]
    problems = problems or [
        problem for part in parts if (problem := _weights_problem(path / part)) is not None
    ]
    if problems:
        fix = msg("take the whole folder of the model, with its .safetensors files")
        raise SettingsError(msg("{path} is no whole model", path=path), fix=fix, problems=problems)
    unet = _json(path / "unet" / "config.json")
    if unet.get("in_channels", 4) != 4:
        fix = msg("train on the plain model it was made from")
        raise SettingsError(msg("{path} is an inpainting or editing model", path=path), fix=fix)
    scheduler_file = path / SCHEDULER_FILE
    scheduler = _json(scheduler_file) if scheduler_file.is_file() else {}
    base = Base(
        name=name,
        path=path,
        family=_family_of_folder(path, unet),
        layout="diffusers",
        prediction=None,
        zero_terminal_snr=False,
        resolution=_resolution(path, unet),
        num_bytes=sum(each.stat().st_size for each in path.glob("*/*.safetensors")),
        betas=betas_of(path, scheduler),
    )
    base = with_evidence(base, evidence_in_folder(path, name, scheduler))
    if base.prediction is None and not base.contradiction:
        return replace(base, prediction="epsilon")  # assumed: without a scheduler's configuration
    return base


def _refuse_transformer_folder(path: Path) -> None:
    """Raise SettingsError for a folder of a family that sd-scripts reads from single files."""
    file = path / "transformer" / "config.json"
    if not file.is_file():
        return
    config = _json(file)
    kind = str(config.get("_class_name") or "")
    of_class = [each for each in FAMILIES.values() if each.diffusers_class == kind]
    found = [each for each in of_class if _has(config, each.diffusers_config)] or of_class
    if not found:
        raise SettingsError(
            msg("{path} is a transformer model of a family that tenner does not train", path=path),
            fix=msg("see docs/families.md for those that it trains"),
        )
    known = next(base for family in found for base in family.bases)
    raise SettingsError(
        msg(
            "{path} is {family} in diffusers layout, which sd-scripts does not train",
            path=path,
            family=found[0].title,
        ),
        fix=msg(
            "take the single file: base_model = '{name}' fetches {file} of {hub_id}",
            name=known.name,
            file=known.file,
            hub_id=known.hub_id,
        ),
    )


def _has(config: Mapping[str, Any], values: Mapping[str, object]) -> bool:
    return all(config.get(name) == value for name, value in values.items())


def _resolution(path: Path, unet: Mapping[str, Any]) -> int:
    """The side in pixels that the model was made for. Raises SettingsError."""
    blocks = _json(path / "vae" / "config.json").get("block_out_channels", [0] * 4)
    latents = unet.get("sample_size") or 64
    is_list = isinstance(blocks, list)
    num_blocks = len(cast("list[object]", blocks)) if is_list else 0
    if not 1 <= num_blocks <= 8 or type(latents) is not int or not 1 <= latents <= 1024:
        text = msg(
            "{path}: sample_size of the U-Net or block_out_channels of the VAE make no sense",
            path=path,
        )
        raise SettingsError(text, fix=msg("download its config.json files again"))
    return latents * 2 ** (num_blocks - 1)


def _family_of_folder(path: Path, unet: Mapping[str, Any]) -> Family:
    if (path / "text_encoder_2").is_dir() or unet.get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd2" if unet.get("cross_attention_dim") == 1024 else "sd1"


def _weights_problem(folder: Path) -> Problem | None:
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        old = any(folder.glob("*.bin"))
        what = (
            msg("only weights as a pickle (.bin), which can run code") if old else msg("no weights")
        )
        return Problem(
            text=msg("{folder} has {what}", folder=folder, what=what),
            fix=msg("take the .safetensors files of the model"),
        )
    for file in found:
        try:
            read_safetensors_header(file)
        except SettingsError as error:
            return error.problems[0]
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except ValueError:
        raise SettingsError(
            msg("{path} is not JSON", path=path), fix=msg("download it again")
        ) from None
    except OSError as error:
        text = msg("{path} cannot be read: {strerror}", path=path, strerror=error.strerror or error)
        raise SettingsError(text, fix=msg("let this user read it (chmod a+r)")) from None

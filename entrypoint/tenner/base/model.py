"""Which base weights a run trains on: found, of which family, and whole.

Everything is read from small files and file headers: no weights are loaded and nothing of torch
is imported, so that a wrong base is reported in milliseconds. Families are read from the tensors
themselves, never from a file's name.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from tenner.base.prediction import (
    SCHEDULER_FILE,
    USUAL_BETAS,
    Evidence,
    NoiseBetas,
    Prediction,
    betas_of,
    evidence_in_checkpoint,
    evidence_in_folder,
    settled,
)
from tenner.base.tiny import base_dir
from tenner.core.errors import Problem, SettingsError
from tenner.core.family import Family
from tenner.core.json_text import read_object
from tenner.core.messages import Message, msg
from tenner.core.safetensors_head import read_safetensors_header, tensor_entries
from tenner.core.suggest import nearest_name
from tenner.families import FAMILIES, FamilyFacts, KnownBase, family_of_shapes
from tenner.settings.known_bases import KNOWN_BASES, known_base, other_family

Layout = Literal["diffusers", "checkpoint"]

SIDES: dict[Family, int] = {name: each.side for name, each in FAMILIES.items()}
"""Side in pixels that a family was made for; of SD 2.x the models that predict v."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """Base weights that are there, whole, and of a family that can be trained.

    `resolution` is the side in pixels that the base was made for. `prediction` is what it was
    trained to answer, None where nothing tells or where sources contradict each other;
    `prediction_from` says where it stands, empty where it was only assumed.
    """

    name: str
    path: Path
    family: Family
    layout: Layout
    prediction: Prediction | None
    zero_terminal_snr: bool
    resolution: int
    num_bytes: int
    licence: str = ""
    hub_id: str = ""
    notices: tuple[Problem, ...] = ()
    prediction_from: str = ""
    contradiction: str = ""
    """Where sources differ in what it predicts: what each says."""
    is_firm: bool = False
    """`prediction` is the model's own word, from a marked tensor or its scheduler."""
    betas: NoiseBetas = USUAL_BETAS
    further: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Text encoders and autoencoder in files of their own, by the option that names them."""

    @property
    def facts(self) -> FamilyFacts:
        """What is known of its family."""
        return FAMILIES[self.family]

    @property
    def text_gb(self) -> float | None:
        """The files of the text encoders, in 1e9 bytes; None where they are not all here."""
        wanted = [each.option for each in self.facts.files if each.option not in ("ae", "vae")]
        if not wanted or any(each not in self.further for each in wanted):
            return None
        return sum(self.further[each].stat().st_size for each in wanted) / 1e9

    @property
    def public_name(self) -> str:
        """What it is called outside this machine: its id on the Hub, its address, the built-in
        one's name, or the last name of its path."""
        is_address = "://" in self.name
        if self.hub_id or is_address or self.path == base_dir():
            return self.hub_id or self.name
        return self.path.absolute().name

    @property
    def is_tiny(self) -> bool:
        """Small enough that a CPU trains it in minutes: under 100 MB (SD 1.5 in fp16 has 2 GB)."""
        return 0 < self.num_bytes < 100_000_000


def known_shape(known: KnownBase) -> Base:
    """A base of which nothing is here, as its short name stands for one file that is known.

    Its `path` leads to nothing, and its size is not known.
    """
    path = Path(known.hub_id, known.file)
    base = Base(
        name=known.name,
        path=path,
        family=known.family,
        layout="checkpoint",
        prediction="epsilon",
        zero_terminal_snr=False,
        resolution=SIDES[known.family],
        num_bytes=0,
        licence=known.licence,
        hub_id=known.hub_id,
    )
    return _with_prediction(base, {}, sha256=known.sha256)


def find_local_base(requested: str, *, models_dir: Path, tiny_dir: Path) -> Base | None:
    """The base that `asked` names, where it is on this machine; None where it must be fetched.

    Looks at the path itself first, then at the baked models. Raises SettingsError where something
    is there and cannot be trained on.
    """
    if requested == "tiny":
        return inspect_base(tiny_dir, name="tiny")
    path = Path(requested).expanduser()
    if path.exists():
        return inspect_base(path, name=requested)
    known = known_base(requested)
    if known is None:
        return None
    for candidate in (models_dir / known.name, models_dir / f"{known.name}.safetensors"):
        if candidate.exists():
            base = inspect_base(candidate, name=known.name)
            return _with_facts(base, known, requested=requested)
    return None


def _short_names() -> list[str]:
    return ["tiny", *(name for each in KNOWN_BASES for name in (each.name, *each.other_names))]


def not_found(requested: str, models_dir: Path) -> SettingsError:
    """Why the base cannot be had from this machine."""
    baked = [each.name for each in KNOWN_BASES if (models_dir / each.name).exists()]
    here = msg("here are: {names}", names=", ".join([*baked, "tiny"]))
    if other := other_family(requested):
        text = msg(
            "base_model = '{asked}': {other} is not among the families that tenner trains",
            asked=requested,
            other=other,
        )
        fix = msg("see docs/families.md for those that it trains; {here}", here=here)
        return SettingsError(text, fix=fix)
    if "/" not in requested and (meant := nearest_name(requested, _short_names())):
        return SettingsError(
            msg("there is no base model {asked}", asked=requested),
            fix=msg("did you mean {meant}? {here}", meant=meant, here=here),
        )
    repo = re.fullmatch(r"[\w.-]+/[\w.-]+", requested)
    also = (
        msg("; if you mean a repo on Hugging Face: hf://{asked}", asked=requested) if repo else ""
    )
    return SettingsError(
        msg("there is no base model at {asked}", asked=requested),
        fix=msg("check the path; {here}{also}", here=here, also=also),
    )


def hold_to_sha256(base: Base, sha256: str) -> None:
    """Raise SettingsError where the base is not the one file that was meant."""
    if not base.path.is_file():
        fix = msg("remove base_model_sha256, or name a .safetensors checkpoint")
        raise SettingsError(msg("base_model_sha256 is given, but the base is a folder"), fix=fix)
    with base.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower().removeprefix("sha256:"):
        text = msg(
            "{path} is not the file that was meant: its SHA-256 is {found}",
            path=base.path,
            found=found,
        )
        raise SettingsError(text, fix=msg("take the right file, or correct base_model_sha256"))


def inspect_base(path: Path, *, name: str, sha256: str | None = None) -> Base:
    """What the base at `path` is. Raises SettingsError with what is wrong with it.

    Of a file that has no more than its head here, `sha256` is what is known of the whole one.
    """
    return _inspect_folder(path, name) if path.is_dir() else _inspect_checkpoint(path, name, sha256)


def _inspect_checkpoint(path: Path, name: str, sha256: str | None) -> Base:
    header = read_safetensors_header(path)
    shapes = {key: each["shape"] for key, each in tensor_entries(header).items()}
    family = family_of_tensors(shapes, path)
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
    return _with_prediction(base, header, sha256=sha256)


def _with_prediction(base: Base, header: Mapping[str, Any], *, sha256: str | None) -> Base:
    """The single file with what it predicts. Noise is assumed where nothing speaks: SD 2.x has
    both, the others rarely."""
    if base.facts.transformer:
        return replace(base, prediction="flow", prediction_from=msg("its family"), is_firm=True)
    found = evidence_in_checkpoint(base.path, base.name, header, sha256=sha256)
    base = with_evidence(base, found)
    if base.prediction is None and not base.contradiction and base.family != "sd2":
        return replace(base, prediction="epsilon")
    return base


def with_evidence(base: Base, found: Sequence[Evidence]) -> Base:
    """The base with what `found` says of its prediction. Of SD 2.x the single files that predict
    noise were made for 512 pixels."""
    prediction, texts = settled(found)
    is_sd2_base = base.family == "sd2" and base.layout == "checkpoint" and prediction == "epsilon"
    return replace(
        base,
        prediction=prediction,
        prediction_from=texts if prediction else "",
        contradiction="" if prediction else texts,
        is_firm=any(each.is_firm for each in found),
        zero_terminal_snr=any(each.zero_terminal_snr for each in found),
        resolution=512 if is_sd2_base else base.resolution,
    )


def family_of_tensors(shapes: Mapping[str, list[int]], path: Path) -> Family:
    """The family of a single-file checkpoint, by its tensors' names and shapes.

    Raises SettingsError for files that are no Stable Diffusion base: a LoRA, a VAE, an inpainting
    or refiner model, another architecture.
    """
    refused = _refused(shapes)
    if refused:
        raise SettingsError(
            msg("{path} is {refused}", path=path, refused=refused[0]), fix=refused[1]
        )

    if found := family_of_shapes(shapes):
        return found
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


def _refused(shapes: Mapping[str, list[int]]) -> tuple[Message, Message] | None:
    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in shapes)

    first = shapes.get("model.diffusion_model.input_blocks.0.0.weight", [])
    channels = first[1] if len(first) > 1 else 4
    if has(r"lora_unet_|lora_te|unet\..*lora"):
        return msg("a LoRA, not a base"), msg("name it as network_weights to go on from it")
    if channels in (8, 9):
        return msg("an inpainting or editing model"), msg(
            "train on the plain model it was made from"
        )
    if has(r"conditioner\.embedders\.0\.model\.") and not has(r"conditioner\.embedders\.1\."):
        return msg("the SDXL refiner"), msg("train on the SDXL base")
    if has(r"encoder\.block\.\d|text_model\.|model\.layers\.\d"):
        return msg("a text encoder alone"), msg("name the model itself as base_model")
    if has(r"(first_stage_model|encoder|decoder)\.") and not has(r"model\.diffusion_model\."):
        return msg("a VAE alone"), msg("name it as vae, and a full model as base_model")
    return None


def _refuse_transformer_folder(path: Path) -> None:
    """Raise SettingsError for a folder of a family that sd-scripts reads from single files."""
    file = path / "transformer" / "config.json"
    if not file.is_file():
        return
    kind = str(_json(file).get("_class_name") or "")
    found = [each for each in FAMILIES.values() if each.diffusers_class == kind]
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


def _with_facts(base: Base, known: KnownBase, *, requested: str) -> Base:
    notices = base.notices
    if requested not in (known.name, known.hub_id):
        text = msg(
            "'{asked}' is not here; the baked {name} ({hub_id}) is taken for it",
            asked=requested,
            name=known.name,
            hub_id=known.hub_id,
        )
        notices = (*notices, Problem(text=text, level="note"))
    return replace(base, licence=known.licence, hub_id=known.hub_id, notices=notices)

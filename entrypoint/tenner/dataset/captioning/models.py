"""Which models draft captions: pinned by commit and SHA-256, or a folder that the user names.

The figures are those that the Hugging Face Hub shows of these files at these commits.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenner.core.errors import SettingsError
from tenner.core.messages import msg
from tenner.core.retry import PermanentError, TransientError
from tenner.core.secrets import NO_SECRETS
from tenner.storage.http import OnBytes
from tenner.storage.hub_client import HubClient, open_hub_client
from tenner.storage.hub_download import (
    HubCache,
    HubFile,
    OnFileBytes,
    WrongFileError,
    fetch_hub_file,
    hub_cache,
)

Kind = Literal["wd14", "blip", "qwen"]


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file of a model; `num_bytes` and `sha256` are of its content."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CaptionModel:
    """A model on the Hub at one commit. `needs` are the packages that run it."""

    id: str
    revision: str
    licence: str
    files: tuple[ModelFile, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)


PINNED: Mapping[Kind, CaptionModel] = {
    "wd14": CaptionModel(
        id="SmilingWolf/wd-swinv2-tagger-v3",
        revision="627aef95638667ddcaa3ac8ae625e88ea5b02f51",
        licence="apache-2.0",
        files=(
            ModelFile(
                name="model.onnx",
                num_bytes=467_460_978,
                sha256="e6774bff34d43bd49f75a47db4ef217dce701c9847b546523eb85ff6dbba1db1",
            ),
            ModelFile(
                name="selected_tags.csv",
                num_bytes=308_468,
                sha256="298633d94d0031d2081c0893f29c82eab7f0df00b08483ba8f29d1e979441217",
            ),
        ),
    ),
    "blip": CaptionModel(
        id="Salesforce/blip-image-captioning-base",
        revision="82a37760796d32b1411fe092ab5d4e227313294b",
        licence="bsd-3-clause",
        files=(
            ModelFile(
                name="config.json",
                num_bytes=4563,
                sha256="f7846f82f4e2c4a2ccbab9ae8b0e44873540a271a76a1288effd078180c13a82",
            ),
            ModelFile(
                name="preprocessor_config.json",
                num_bytes=287,
                sha256="065c10ec97edc5081fbd9655b3d9d25e2647ea6d5dab873325e88eed12d80a7d",
            ),
            ModelFile(
                name="tokenizer.json",
                num_bytes=711_396,
                sha256="d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
            ),
            ModelFile(
                name="pytorch_model.bin",
                num_bytes=989_820_849,
                sha256="d6638651a5526cc2ede56f2b5104d6851b0755816d220e5e046870430180c767",
            ),
        ),
    ),
    "qwen": CaptionModel(
        id="Qwen/Qwen2-VL-2B-Instruct",
        revision="895c3a49bc3fa70a340399125c650a463535e71c",
        licence="apache-2.0",
        files=(
            ModelFile(
                name="config.json",
                num_bytes=1196,
                sha256="422adefa19e62dd175961cec85bc0400344fe5bf9b22bd1182e05aaae78556e0",
            ),
            ModelFile(
                name="generation_config.json",
                num_bytes=272,
                sha256="d2864bf1edea5863d331edfff48106b586a366f5a2c41aa77731fadc53aa25d2",
            ),
            ModelFile(
                name="preprocessor_config.json",
                num_bytes=347,
                sha256="b5eaad0c2815f07631535dcc58f3c462b0d73693638ad21d19f3c50820eae1cc",
            ),
            ModelFile(
                name="tokenizer.json",
                num_bytes=7_029_741,
                sha256="cb63a0a23eef3d5b01063a9880a1925a65aaf4d1591d519910ee3527852950a0",
            ),
            ModelFile(
                name="model.safetensors.index.json",
                num_bytes=56_411,
                sha256="260ab9fa1418d6d6ab79daa1d9da2c47264f3b72edb4630fc799077ac67d27c6",
            ),
            ModelFile(
                name="model-00001-of-00002.safetensors",
                num_bytes=3_988_609_112,
                sha256="994ac2b03f97de8bc647d0fe5eba2e4b632b3e28dc03574c29bdfc36cf47e1b9",
            ),
            ModelFile(
                name="model-00002-of-00002.safetensors",
                num_bytes=429_441_656,
                sha256="92540d8353c8d226a589a3b179bdb33851c970ee2cc2ac7ba035f79425e7b833",
            ),
        ),
    ),
}
"""Of those that write sentences, Qwen2-VL follows its prompt. The image's transformers (4.54.1)
holds it; Florence-2 without remote code came with 4.56, and knows fixed tasks alone."""

NEEDED: Mapping[Kind, tuple[tuple[str, ...], ...]] = {
    "wd14": (("model.onnx",), ("selected_tags.csv",)),
    "blip": (
        *(("config.json",), ("preprocessor_config.json",), ("tokenizer.json",)),
        ("model.safetensors", "pytorch_model.bin"),
    ),
    "qwen": (
        *(("config.json",), ("preprocessor_config.json",), ("tokenizer.json",)),
        ("model.safetensors", "model.safetensors.index.json"),
    ),
}
"""Files that a model's folder must hold; of each group one."""


def find_model(
    kind: Kind,
    requested: Path | None,
    cache: Path,
    environ: Mapping[str, str],
    on_bytes: OnBytes | None = None,
) -> Path:
    """The folder of the model: the user's own, or the pinned one, fetched once and verified.

    Raises SettingsError.
    """
    if requested is not None:
        return _users_own(kind, requested)
    model = PINNED[kind]
    folder = cache / "models" / f"{model.id.replace('/', '--')}@{model.revision[:12]}"
    hub = hub_cache(environ, cache / "hub")
    done = 0
    for file in model.files:
        target = folder / file.name
        if not _is_verified(target, file):
            _fetch(file, model, target, hub, environ, _shifted(on_bytes, done, model))
        done += file.num_bytes
    return folder


def kind_of(folder: Path) -> Kind | None:
    """The kind of a model's folder, by its files and its config; None where it is none."""
    if (folder / "model.onnx").is_file():
        return "wd14"
    try:
        found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = str(found.get("model_type"))
    except (OSError, ValueError, AttributeError):
        return None
    kinds: dict[str, Kind] = {"qwen2_vl": "qwen", "blip": "blip"}
    return kinds.get(name)


def _users_own(kind: Kind, folder: Path) -> Path:
    missing = [
        " or ".join(group)
        for group in NEEDED[kind]
        if not any((folder / name).is_file() for name in group)
    ]
    if missing:
        raise SettingsError(
            msg(
                "{folder} is no {kind} model: it lacks {missing}",
                folder=folder,
                kind=kind,
                missing=", ".join(missing),
            ),
            fix=msg(
                "name a folder that holds the files of {id}, or one like it", id=PINNED[kind].id
            ),
        )
    return folder


def _is_verified(path: Path, file: ModelFile) -> bool:
    """Whether the file was verified when it came, and is as long as then."""
    mark = _mark(path)
    if not (path.is_file() and mark.is_file() and path.stat().st_size == file.num_bytes):
        return False
    return mark.read_text(encoding="ascii").strip() == file.sha256


def _fetch(
    file: ModelFile,
    model: CaptionModel,
    target: Path,
    cache: HubCache,
    environ: Mapping[str, str],
    on_bytes: OnFileBytes | None,
) -> None:
    """Link the file, verified, to its path in a cache of the Hub. Raises SettingsError."""
    by_hand = msg(
        "put {files} of {id} into a folder, and name it: --model FOLDER",
        files=", ".join(each.name for each in model.files),
        id=model.id,
    )
    on_hub = HubFile(
        repo=model.id,
        name=file.name,
        commit=model.revision,
        size=file.num_bytes,
        sha256=file.sha256,
    )
    try:
        found = cache.find(on_hub) or fetch_hub_file(
            on_hub, _client(model, environ), cache, on_bytes=on_bytes
        )
    except WrongFileError as error:
        raise SettingsError(
            msg(
                "{name} of {id} came with the SHA-256 {found}, which is not the pinned one:"
                " it is not used",
                name=file.name,
                id=model.id,
                found=error.found,
            ),
            fix=msg("try again; or {by_hand}", by_hand=by_hand),
        ) from None
    except (PermanentError, TransientError, OSError) as error:
        why = error.problem.text if isinstance(error, PermanentError) else error
        raise SettingsError(
            msg("the model {id} cannot be fetched: {why}", id=model.id, why=why), fix=by_hand
        ) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(found.absolute())
    _mark(target).write_text(file.sha256 + "\n", encoding="ascii")


def _client(model: CaptionModel, environ: Mapping[str, str]) -> HubClient:
    """Without a token: the pinned models are public, and a token that expired would be refused."""
    return open_hub_client(model.id, secrets=NO_SECRETS, env=environ, signs_in=False)


def _mark(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _shifted(on_bytes: OnBytes | None, before: int, model: CaptionModel) -> OnFileBytes | None:
    """Progress of one file as progress of the whole model."""
    if on_bytes is None:
        return None
    return lambda done: on_bytes(before + done, model.num_bytes)

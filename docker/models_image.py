"""Base models as layers of their own, and images made of layers that lie in a registry already.

    python models_image.py layer NAME FOLDER                pack what fetch_model.py left there
    python models_image.py join OUT MANIFEST CONFIG MODEL…  an image's files, with models on top

A base model never goes through a build: it is fetched, packed as one uncompressed layer (weights do
not compress) whose bytes are the same every time, and pushed by digest. An image with a model is
the slim image's manifest with that layer added: a few kilobytes, so that no machine ever holds
both. Uses the standard library alone; `oras` carries the files to and from the registry.
"""

import hashlib
import json
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ROOT = "opt/models"
TIME = 1_735_689_600
"""One date for all files: 2025-01-01, as the other layers have."""


def layer(name: str, folder: Path) -> Path:
    """Pack the model that `fetch_model.py` left in `folder` as `folder/NAME.tar`, in bytes that
    depend on nothing else. The model's own file is removed: both take its room."""
    packed = folder / f"{name}.tar"
    weights = folder / f"{name}.safetensors"
    with tarfile.open(packed, "w", format=tarfile.GNU_FORMAT) as tar:
        for part in ("opt", ROOT):
            tar.addfile(_entry(part, kind=tarfile.DIRTYPE, mode=0o755))
        for path in (weights, weights.with_suffix(".txt")):
            entry = _entry(f"{ROOT}/{path.name}", size=path.stat().st_size, mode=0o644)
            with path.open("rb") as content:
                tar.addfile(entry, content)
    weights.unlink()
    return packed


def describe(packed: Path, name: str) -> dict[str, Any]:
    """The layer as `join` takes it: its digest and size, and which model it is."""
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "name": name,
        "mediaType": LAYER,
        "digest": f"sha256:{digest}",
        "size": packed.stat().st_size,
    }


def join(
    manifest: Mapping[str, Any], config: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], bytes]:
    """An image with the models' layers on top of another's: its manifest, its config's bytes."""
    names = [str(each["name"]) for each in models]
    history = [
        {"created": config["created"], "created_by": f"base model {name}", "comment": "tenner"}
        for name in names
    ]
    labels = {
        **(config["config"].get("Labels") or {}),
        "tenner.models": "full" if len(names) > 1 else names[0],
    }
    joined = {
        **config,
        "config": {**config["config"], "Labels": labels},
        "rootfs": {
            "type": "layers",
            # An uncompressed layer's digest is that of its content.
            "diff_ids": [*config["rootfs"]["diff_ids"], *(each["digest"] for each in models)],
        },
        "history": [*config.get("history", []), *history],
    }
    content = json.dumps(joined, separators=(",", ":"), sort_keys=True).encode()
    descriptors = [{key: each[key] for key in ("mediaType", "digest", "size")} for each in models]
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    whole = {
        **manifest,
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest, "size": len(content)},
        "layers": [*manifest["layers"], *descriptors],
    }
    return whole, content


def _entry(
    name: str, *, mode: int, size: int = 0, kind: bytes = tarfile.REGTYPE
) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.mtime = kind, mode, size, TIME
    return entry


def main(command: str, *words: str) -> None:
    """`layer` writes NAME.tar and NAME.json; `join` writes manifest.json and config.json."""
    if command == "layer":
        name, folder = words
        packed = layer(name, Path(folder))
        description = json.dumps(describe(packed, name))
        packed.with_suffix(".json").write_text(description, encoding="utf-8")
        print(description)
        return
    out, manifest, config, *models = map(Path, words)
    whole, content = join(
        json.loads(manifest.read_bytes()),
        json.loads(config.read_bytes()),
        [json.loads(each.read_bytes()) for each in models],
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_bytes(content)
    (out / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A trained run as Civitai takes it: one archive with the file, previews and its form's values.

Nothing is sent there. The previews carry their prompts as A1111 writes them, which Civitai reads.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from tenner.core.errors import DeliveryError
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.temporary_files import part_of
from tenner.kohya.networks import is_ia3
from tenner.lora_files.programs import KIND_NAMES
from tenner.runs.card import shown_samples
from tenner.sample.job import SAMPLES_FILE, Samples

_NAMES = {
    "sd1": ("SD 1.5", (("v1-4", "SD 1.4"), ("lcm", "SD 1.5 LCM"), ("hyper", "SD 1.5 Hyper"))),
    "sd2": ("SD 2.1", (("2-1", "SD 2.1"), ("diffusion-2", "SD 2.0"))),
    "sdxl": (
        "SDXL 1.0",
        (
            *(("pony", "Pony"), ("noobai", "NoobAI"), ("illustrious", "Illustrious")),
            *(("xl-turbo", "SDXL Turbo"), ("lightning", "SDXL Lightning"), ("hyper", "SDXL Hyper")),
            ("lcm", "SDXL 1.0 LCM"),
        ),
    ),
    "sd3": ("SD 3", ()),
    "sd35-medium": ("SD 3.5 Medium", ()),
    "sd35-large": ("SD 3.5 Large", (("large-turbo", "SD 3.5 Large Turbo"),)),
    "flux": (
        "Flux.1 D",
        (("krea", "Flux.1 Krea"), ("kontext", "Flux.1 Kontext"), ("schnell", "Flux.1 S")),
    ),
    "flux-schnell": ("Flux.1 S", ()),
    "chroma": ("Chroma", ()),
    "lumina2": ("Lumina", ()),
    "anima": ("Anima", ()),
}
"""Civitai's names of bases: each family's usual one, and others by the first text that is in the
base's own name. From `baseModelRecords` of civitai/civitai,
packages/civitai-shared/src/basemodel.constants.ts at ebed661, 2026-08-08. Of SD 2.x it offers the
names without 768 alone, and SD 3.x no more; HunyuanImage it does not list."""
_DATE = (2026, 1, 1, 0, 0, 0)
"""The date of every entry, so that equal content makes equal archives."""


def base_model_name(family: str, *names: str) -> str:
    """Civitai's name of the base, by its own names, else by its family; else `Other`."""
    whole = " ".join(names).lower().replace("_", "-")
    usual, further = _NAMES.get(family, ("Other", ()))
    return next((civitai for text, civitai in further if text in whole), usual)


def archive_name(name: str) -> str:
    return f"{name}-civitai.zip"


def pack_for_civitai(run_dir: RunDir, name: str) -> Path:
    """Write the archive of a trained run, from the files in its directory.

    Raises DeliveryError where it was not trained, OSError.
    """
    weights = run_dir.checkpoints / f"{name}.safetensors"
    if not weights.is_file():
        raise DeliveryError(
            msg("{run} holds no trained LoRA {name}", run=run_dir.path, name=weights.name),
            fix=msg("train it first: tenner train"),
        )
    plan, dataset = _read(run_dir.plan), _read(run_dir.dataset)
    base = plan.get("base", {})
    trigger = str(dataset.get("trigger") or "")
    previews = _previews(run_dir)
    description = _description(plan, dataset, trigger)
    facts = {
        "name": name,
        "type": "LORA",
        "baseModel": base_model_name(
            str(base.get("family", "")), str(base.get("name", "")), str(base.get("hub_id") or "")
        ),
        "trainedWords": [trigger] if trigger else [],
        "description": description,
        "images": [f"{name}-{number}.png" for number in range(1, len(previews) + 1)],
    }
    path = run_dir.path / archive_name(name)
    part = part_of(path)
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, weights.name, weights.read_bytes())
        for number, picture in enumerate(previews, start=1):
            _add(archive, f"{name}-{number}.png", picture.read_bytes())
        _add(archive, "civitai.json", json.dumps(facts, ensure_ascii=False, indent=1).encode())
        _add(archive, "description.txt", description.encode())
    part.replace(path)
    return path


def _previews(run_dir: RunDir) -> list[Path]:
    listing = run_dir.samples / "final" / SAMPLES_FILE
    if not listing.is_file():
        return []
    return [listing.parent / each.file for each in shown_samples(Samples.read(listing).samples)]


def _description(plan: dict[str, Any], dataset: dict[str, Any], trigger: str) -> str:
    """A few lines for the page's description."""
    options = plan.get("options", {})
    number = dataset.get("num_images")
    lines = [f"A LoRA trained on {number} images." if number else "A LoRA."]
    if trigger:
        lines.append(f"Trigger: {trigger}")
    lines += [
        "Begin at strength 0.8; 0.5 to 1.0 is usual.",
    ]
    rank = f"Rank {options.get('network_dim')}, alpha {options.get('network_alpha')}"
    if is_ia3(options.get("network_module"), options.get("network_args") or ()):
        rank = KIND_NAMES["ia3"]
    rate, steps = options.get("unet_lr"), plan.get("num_steps")
    lines.append(f"{rank}, {steps} steps, learning rate {rate}.")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _DATE), content)

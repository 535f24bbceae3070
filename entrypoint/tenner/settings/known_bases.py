"""Base models that have a short name."""

from dataclasses import dataclass
from pathlib import Path

from tenner.core.family import Family


@dataclass(frozen=True, kw_only=True)
class KnownBase:
    """A base that has a short name. Licences are those of the model's own page.

    `file` at the commit `revision` is what is fetched where the model is not here; `sha256` is
    that file's.
    """

    name: str
    hub_id: str
    family: Family
    licence: str
    revision: str
    file: str
    sha256: str
    other_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


KNOWN_BASES = (
    KnownBase(
        name="sd15",
        hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
        family="sd1",
        licence="creativeml-openrail-m",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        file="v1-5-pruned-emaonly.safetensors",
        sha256="6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
        other_names=("sd1.5", "sd-1.5", "runwayml/stable-diffusion-v1-5"),
        files=(
            "v1-5-pruned.safetensors",
            "v1-5-pruned-emaonly.safetensors",
            "v1-5-pruned.ckpt",
            "v1-5-pruned-emaonly.ckpt",
        ),
    ),
    KnownBase(
        name="sdxl",
        hub_id="stabilityai/stable-diffusion-xl-base-1.0",
        family="sdxl",
        licence="openrail++",
        revision="462165984030d82259a11f4367a4eed129e94a7b",
        file="sd_xl_base_1.0.safetensors",
        sha256="31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
        other_names=("sdxl1.0", "sdxl-base"),
        files=("sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors"),
    ),
)


_OTHER_FAMILIES = {
    "flux": "FLUX.1",
    "sd3": "Stable Diffusion 3",
    "sd35": "Stable Diffusion 3.5",
    "stablediffusion3": "Stable Diffusion 3",
    "chroma": "Chroma",
    "lumina": "Lumina",
    "hunyuan": "Hunyuan",
    "pixart": "PixArt",
    "qwen": "Qwen-Image",
    "wan": "Wan",
    "kandinsky": "Kandinsky",
    "cascade": "Stable Cascade",
    "auraflow": "AuraFlow",
    "sana": "Sana",
}
"""Models of other families, by how their names begin in lower case without points and dashes."""


def other_family(name: str) -> str | None:
    """The family, not trained here, that a short name or the last part of a path names."""
    plain = "".join(char for char in name.rstrip("/").rpartition("/")[2].lower() if char.isalnum())
    found = [known for known in _OTHER_FAMILIES if plain.startswith(known)]
    return _OTHER_FAMILIES[max(found, key=len)] if found else None


def known_base(name: str) -> KnownBase | None:
    """The known base called `name`: its short name, an older name, a hub id, a file's name."""
    plain = name.strip().removeprefix("hf://").rstrip("/").lower()
    for base in KNOWN_BASES:
        if plain in (base.name, base.hub_id.lower(), *base.other_names):
            return base
        if Path(plain.replace("\\", "/")).name in base.files:
            return base
    return None

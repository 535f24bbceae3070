"""Base models that have a short name."""

from pathlib import Path

from tenner.families import KnownBase, known_bases

KNOWN_BASES = known_bases()


_OTHER_FAMILIES = {
    "flux2": "FLUX.2",
    "hunyuanvideo": "HunyuanVideo",
    "zimage": "Z-Image",
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

"""The families of base models: data alone, one module for each.

To add a family, write its `FamilyFacts` in a module here and add it to `FAMILIES`; see
`docs/families.md`. Standard library only, and no package of tenner above `core`.
"""

import re
from collections.abc import Mapping

from tenner.core.family import Family
from tenner.families.anima import ANIMA
from tenner.families.facts import (
    Blocks,
    Default,
    Drawing,
    FamilyDefaults,
    FamilyFacts,
    FurtherFile,
    HubTokenizer,
    KnownBase,
    Licence,
    Shapes,
    Transformer,
    Variant,
)
from tenner.families.flux import CHROMA, FLUX, SCHNELL
from tenner.families.hunyuan_image import HUNYUAN_IMAGE
from tenner.families.lumina import LUMINA
from tenner.families.sd1 import SD1
from tenner.families.sd2 import SD2
from tenner.families.sd3 import SD3, SD35_LARGE, SD35_MEDIUM
from tenner.families.sdxl import SDXL

__all__ = [
    "FAMILIES",
    "FAMILY_NAMES",
    "TINY_STEPS",
    "Blocks",
    "Default",
    "Drawing",
    "FamilyDefaults",
    "FamilyFacts",
    "FurtherFile",
    "HubTokenizer",
    "KnownBase",
    "Licence",
    "Shapes",
    "Transformer",
    "Variant",
    "family_of_shapes",
    "known_bases",
    "lora_family",
    "variant_of",
]

FAMILIES: Mapping[Family, FamilyFacts] = {
    each.name: each
    for each in (
        SD1,
        SD2,
        SDXL,
        FLUX,
        SCHNELL,
        CHROMA,
        SD3,
        SD35_MEDIUM,
        SD35_LARGE,
        LUMINA,
        ANIMA,
        HUNYUAN_IMAGE,
    )
}
FAMILY_NAMES: Mapping[Family, str] = {name: each.title for name, each in FAMILIES.items()}

TINY_STEPS = 8
"""`bucket_reso_steps` of the tiny base: latents of 4 pixels, halved once in its U-Net."""


def known_bases() -> tuple[KnownBase, ...]:
    """All bases that have a short name."""
    return tuple(base for family in FAMILIES.values() for base in family.bases)


def family_of_shapes(shapes: Shapes) -> Family | None:
    """The family of a single-file checkpoint by its tensors; None if it is of no known family."""
    found = (name for name, each in FAMILIES.items() if each.recognises(shapes))
    return next(found, None)


def variant_of(family: Family, shapes: Shapes, name: str) -> Variant | None:
    """The variant of the family that a file is, by its tensors or its `name`; None for a model of
    the family itself."""
    for each in FAMILIES[family].variants:
        is_named = each.names and re.search(each.names, name, re.IGNORECASE)
        if is_named or (each.has is not None and each.has(shapes)):
            return each
    return None


def lora_family(family: Family) -> Family:
    """The family whose LoRAs fit: FLUX.1 [schnell] takes those of [dev]."""
    return FAMILIES[family].lora_family or family

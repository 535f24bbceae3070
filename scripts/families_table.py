"""`python -m scripts.families_table` writes the tables of docs/families.md anew.

What stands in the first is read from `tenner.families`; in the second, which proof a cell stands
on, from `PROOFS` here, where each names the test that shows it.
"""

from pathlib import Path

from tenner.families import FAMILIES, FamilyFacts

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
BEGIN, END = "<!-- families -->", "<!-- /families -->"

COLUMNS: tuple[str, ...] = (
    "recognised",
    "planned",
    "arguments",
    "real training",
    "sampled",
    "delivered",
    "resumed",
    "loads in diffusers",
)
YES, NO = "yes", "no"
_FULL: dict[str, str] = dict.fromkeys(COLUMNS, YES)
_SMALL = "smaller sizes, on a CPU"
_BIT_FOR_BIT = "smaller sizes, bit for bit"
_HUB_TOKENIZER = "smaller sizes and a loopback Hub"
_PARSER: dict[str, str] = {
    "recognised": YES,
    "planned": YES,
    "arguments": YES,
    "real training": "no: real parser only",
    "sampled": NO,
    "delivered": "not tried",
    "resumed": "not tried",
    "loads in diffusers": NO,
}
_FLUX: dict[str, str] = {
    **_FULL,
    "real training": "one block of each kind, small T5, on a CPU",
    "sampled": "the same",
    "resumed": "the same, bit for bit",
}
_SD3: dict[str, str] = {
    **_FULL,
    "real training": _SMALL,
    "sampled": _SMALL,
    "resumed": _BIT_FOR_BIT,
    "loads in diffusers": "no: drawn under names that tenner gives it",
}
_BY_TRAINER = f"{_SMALL}, by sd-scripts' code"
_OF_HUB: dict[str, str] = {
    **_PARSER,
    "sampled": _BY_TRAINER,
    "real training": f"{_HUB_TOKENIZER}, on a CPU",
    "delivered": YES,
    "resumed": f"{_HUB_TOKENIZER}, bit for bit",
}
PROOFS: dict[str, dict[str, str]] = {
    "sd1": _FULL,
    "sd2": _FULL,
    "sdxl": _FULL,
    "flux": _FLUX,
    "flux-schnell": _FLUX,
    "chroma": {
        **_PARSER,
        "real training": _SMALL,
        "sampled": _BY_TRAINER,
        "delivered": YES,
        "resumed": _BIT_FOR_BIT,
        "loads in diffusers": "0.42, which is newer than the trainer's",
    },
    "sd3": _SD3,
    "sd35-medium": _SD3,
    "sd35-large": _SD3,
    "anima": {
        **_PARSER,
        "loads in diffusers": "no: 0.42 loads nothing of it, in silence",
        "real training": _SMALL,
        "sampled": _BY_TRAINER,
        "delivered": YES,
        "resumed": _BIT_FOR_BIT,
    },
    "lumina2": {**_OF_HUB, "loads in diffusers": "no: 0.42 warns, and loads nothing of it"},
    "hunyuan-image": {**_OF_HUB, "loads in diffusers": "no: 0.42's pipeline loads no LoRAs"},
}


def proofs(family: FamilyFacts) -> dict[str, str]:
    """What is shown of a family, and by what."""
    return PROOFS.get(family.name, _PARSER)


def tables() -> str:
    """Both tables."""
    head = "| family | base_model | script | side | files beside it | licence |"
    rows = [head, "|---|---|---|---|---|---|"]
    for each in FAMILIES.values():
        bases = ", ".join(f"`{base.name}`" for base in each.bases) or "a file or folder"
        files = ", ".join(f"`{file.option}`" for file in each.files) or "none"
        licence = each.licence.name if each.licence else "the base's own"
        rows.append(
            f"| {each.title} | {bases} | `{each.script}` | {each.side} | {files} | {licence} |"
        )
    rows += ["", f"| family | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for each in FAMILIES.values():
        shown = proofs(each)
        rows.append(f"| {each.title} | {' | '.join(shown[name] for name in COLUMNS)} |")
    return "\n".join(rows)


def written(page: str) -> str:
    """The page with its tables made anew."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

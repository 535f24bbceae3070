"""`python -m scripts.families_table` writes the tables of docs/families.md anew.

What stands in the first is read from `tenner.families`; in the second, which proof a cell stands
on, from `PROOFS` here, where each names the test that shows it.
"""

from pathlib import Path

from tenner.families import FAMILIES, FamilyFacts

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
BEGIN, END = "<!-- families -->", "<!-- /families -->"

COLUMNS = (
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
FULL = dict.fromkeys(COLUMNS, YES)
_SMALL = "smaller sizes, on a CPU"
_RENAMED = "no: drawn under names that tenner gives it"
PROOFS: dict[str, dict[str, str]] = {
    "sd1": FULL,
    "sd2": FULL,
    "sdxl": FULL,
    "flux": {
        **FULL,
        "real training": "one block of each kind, small T5, on a CPU",
        "sampled": "the same",
        "resumed": "the same, bit for bit",
    },
    "flux-schnell": {
        **FULL,
        "real training": "one block of each kind, small T5, on a CPU",
        "sampled": "the same",
        "resumed": "as FLUX.1 dev, not tried on it",
    },
    "sd35-medium": {
        **FULL,
        "real training": _SMALL,
        "sampled": _SMALL,
        "resumed": "smaller sizes, bit for bit",
        "loads in diffusers": _RENAMED,
    },
}
_PARSER = {
    "recognised": YES,
    "planned": YES,
    "arguments": YES,
    "real training": "no: real parser only",
    "sampled": NO,
    "delivered": "not tried",
    "resumed": "not tried",
    "loads in diffusers": "no: 0.32 cannot",
}
_SD3 = {**PROOFS["sd35-medium"], "resumed": "as 3.5 Medium, not tried on it"}
_NEWER = "0.42, which is newer than the trainer's"
_CHROMA = {
    **_PARSER,
    "real training": _SMALL,
    "sampled": f"{_SMALL}, by sd-scripts' code",
    "delivered": YES,
    "loads in diffusers": _NEWER,
}
_ANIMA = {
    **_PARSER,
    "real training": _SMALL,
    "delivered": YES,
    "resumed": "smaller sizes, bit for bit",
}
_HUB_TOKENIZER = "smaller sizes and a loopback Hub, on a CPU"
_OF_HUB = {**_PARSER, "real training": _HUB_TOKENIZER, "delivered": YES}
PROOFS |= {
    "anima": _ANIMA,
    "lumina2": _OF_HUB,
    "hunyuan-image": _OF_HUB,
    "sd3": _SD3,
    "sd35-large": _SD3,
    "chroma": {**_CHROMA, "resumed": "as FLUX.1 dev, not tried on it"},
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

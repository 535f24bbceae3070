"""The built-in tiny base model and the demo's concept: small enough for a CPU, and real."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def base_dir() -> Path:
    """The tiny base model, in diffusers layout."""
    return _HERE / "base"


def concept_dir() -> Path:
    """The demo's training pictures with captions, in kohya's folder convention."""
    return _HERE / "concept"


def regularisation_dir() -> Path:
    """Pictures of what the base knows already, trained beside the concept."""
    return _HERE / "regularisation"


def held_out() -> list[tuple[Path, str]]:
    """Pictures of the concept that are not trained on, each with its caption."""
    return [
        (path, path.with_suffix(".txt").read_text(encoding="utf-8").strip())
        for path in sorted((_HERE / "held_out").glob("*.png"))
    ]

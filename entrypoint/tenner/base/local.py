"""Whether the base that a setting names is on this machine already, and what is wrong where it is
not."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from tenner.base.inspection import inspect_base
from tenner.base.model import Base
from tenner.core.errors import Problem, SettingsError
from tenner.core.messages import msg
from tenner.core.suggest import nearest_name
from tenner.families import KnownBase
from tenner.settings.known_bases import KNOWN_BASES, known_base, other_family


def find_local_base(requested: str, *, models_dir: Path, tiny_dir: Path) -> Base | None:
    """The base that `requested` names, where it is on this machine; None where it must be fetched.

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


def _with_facts(base: Base, known: KnownBase, *, requested: str) -> Base:
    notices = base.notices
    if requested not in (known.name, known.hub_id):
        text = msg(
            "'{requested}' is not here; the baked {name} ({hub_id}) is taken for it",
            requested=requested,
            name=known.name,
            hub_id=known.hub_id,
        )
        notices = (*notices, Problem(text=text, level="note"))
    return replace(base, licence=known.licence, hub_id=known.hub_id, notices=notices)


def _short_names() -> list[str]:
    return ["tiny", *(name for each in KNOWN_BASES for name in (each.name, *each.other_names))]


def not_found(requested: str, models_dir: Path) -> SettingsError:
    """The error for a base that is neither at a path nor among the baked models."""
    baked = [each.name for each in KNOWN_BASES if (models_dir / each.name).exists()]
    here = msg("here are: {names}", names=", ".join([*baked, "tiny"]))
    if other := other_family(requested):
        text = msg(
            "base_model = '{requested}': {other} is not among the families that tenner trains",
            requested=requested,
            other=other,
        )
        fix = msg("see docs/families.md for those that it trains; {here}", here=here)
        return SettingsError(text, fix=fix)
    if "/" not in requested and (meant := nearest_name(requested, _short_names())):
        return SettingsError(
            msg("there is no base model {requested}", requested=requested),
            fix=msg("did you mean {meant}? {here}", meant=meant, here=here),
        )
    repo = re.fullmatch(r"[\w.-]+/[\w.-]+", requested)
    also = (
        msg("; if you mean a repo on Hugging Face: hf://{requested}", requested=requested)
        if repo
        else ""
    )
    return SettingsError(
        msg("there is no base model at {requested}", requested=requested),
        fix=msg("check the path; {here}{also}", here=here, also=also),
    )


def hold_to_sha256(base: Base, sha256: str) -> None:
    """Raise SettingsError unless the base is one file with this SHA-256."""
    if not base.path.is_file():
        fix = msg("remove base_model_sha256, or name a .safetensors checkpoint")
        raise SettingsError(msg("base_model_sha256 is given, but the base is a folder"), fix=fix)
    with base.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower().removeprefix("sha256:"):
        text = msg(
            "{path} is not the expected file: its SHA-256 is {found}",
            path=base.path,
            found=found,
        )
        raise SettingsError(text, fix=msg("take the right file, or correct base_model_sha256"))

"""Which base model a run trains: one on this machine, or one that is fetched."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tenner.base.further import Further, Search, find_further, named_problems
from tenner.base.inspection import inspect_base
from tenner.base.local import find_local_base, hold_to_sha256, not_found
from tenner.base.model import SIDES, Base, known_shape, with_evidence
from tenner.base.prediction import PREDICTION_NAMES, Evidence, Prediction
from tenner.base.tiny import base_dir
from tenner.core.errors import Problem, SettingsError, errors_in
from tenner.core.family import Family
from tenner.core.messages import msg, redacted
from tenner.core.secrets import secrets_from
from tenner.families import FAMILIES, FAMILY_NAMES, KnownBase
from tenner.settings import Settings
from tenner.settings.known_bases import known_base
from tenner.storage.cache_dir import downloads_dir
from tenner.storage.http import OnBytes

if TYPE_CHECKING:
    from tenner.base.source import BaseAddress

MODELS_DIR = "/opt/models"
"""Where the image has its baked base models, unless TENNER_MODELS_DIR is set."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What a dataset is judged for; `notice` where that was not read from a base."""

    family: Family
    resolution: tuple[int, int]
    is_tiny: bool = False
    notice: Problem | None = None


def assume_base(settings: Settings, base: Base | None) -> Assumed:
    """The family and resolution to judge a dataset for, where the base may be elsewhere.

    A known name determines the family; else "xl" in the name, or a resolution of 1024 and more,
    means SDXL, and anything else Stable Diffusion 1.x. Such a guess is reported.
    """
    if base:
        side = base.resolution
        resolution = settings.resolution or (side, side)
        return Assumed(family=base.family, resolution=resolution, is_tiny=base.is_tiny)
    known, size = known_base(settings.base_model), settings.resolution
    name = settings.base_model.rstrip("/").rpartition("/")[2]
    family = known.family if known else _guessed_family(settings, name)
    side = SIDES[family]
    resolution = size or (side, side)
    if known:
        return Assumed(family=family, resolution=resolution)
    notice = Problem(
        text=msg(
            "the base model is not here: the images are judged for {family_names} at"
            " {resolution}×{resolution2}",
            family_names=FAMILY_NAMES[family],
            resolution=resolution[0],
            resolution2=resolution[1],
        ),
        fix=msg("name base_model where it is, or set resolution"),
        level="note",
    )
    return Assumed(family=family, resolution=resolution, notice=notice)


def _guessed_family(settings: Settings, name: str) -> Family:
    """By the file's or repo's name, else by the resolution."""
    patterns = ((family, each.name_patterns) for family, each in FAMILIES.items())
    named = (each for each, found in patterns if found and re.search(found, name, re.IGNORECASE))
    if family := next(named, None):
        return family
    size = settings.resolution
    if size and size[0] * size[1] >= SIDES["sdxl"] ** 2:
        return "sdxl"
    return "sd2" if settings.v2 else "sd1"


def must_be_fetched(base_model: str, environ: Mapping[str, str]) -> bool:
    """Whether the base is known and not on this machine. Raises SettingsError where it is here and
    broken."""
    if not known_base(base_model) and "://" not in base_model:
        return False
    models_dir = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    return find_local_base(base_model, models_dir=models_dir, tiny_dir=base_dir()) is None


def find_base(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    on_stage: Callable[[str, str], None],
    on_bytes: OnBytes | None,
    heads_into: Path | None = None,
    local: Base | None = None,
) -> Base:
    """The base model, found on this machine or fetched to it, of the family in the settings.

    With `heads_into` it is not fetched: what is elsewhere is known by its short name, or described
    by the heads of its files, which are written to that folder; a note says so. `local` is the base
    where it was found on this machine before. Raises SettingsError.
    """
    models_dir = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    base_model = settings.base_model
    base = local or find_local_base(base_model, models_dir=models_dir, tiny_dir=base_dir())
    if base is None:
        from tenner.base.source import parse_base_address

        address = parse_base_address(base_model)
        if address is None:
            raise not_found(base_model, models_dir)
        known = known_base(base_model)
        wrong = named_problems(known.family, settings) if known else ()
        asked = _access(known, environ) if known and heads_into is not None else ()
        if errors := (*wrong, *errors_in(asked)):
            raise SettingsError(problems=errors)
        on_stage("base model", str(address))
        if heads_into is None:
            base = _fetched(address, settings, environ, on_bytes)
        else:
            base = _described(address, settings, environ, heads_into)
            base = replace(base, notices=(*base.notices, *asked))
    elif settings.base_model_sha256:
        hold_to_sha256(base, settings.base_model_sha256)
    if problems := _contradictions(settings, base):
        raise SettingsError(problems=problems)
    base = settle_prediction(settings, base)
    search = Search(
        settings=settings,
        environ=environ,
        models_dir=models_dir,
        fetches=heads_into is None,
        on_stage=on_stage,
        on_bytes=on_bytes,
    )
    known = known_base(base_model)
    about = known_notices(known) if known else family_notices(base.family)
    return _with_further(base, find_further(base, search), about)


def _with_further(base: Base, further: Further, about: Sequence[Problem]) -> Base:
    notices = (*base.notices, *about, *further.notices)
    return replace(
        base,
        further=further.files,
        hub_tokenizers=further.tokenizers,
        text_sizes_gb=further.text_sizes_gb,
        notices=tuple(dict.fromkeys(notices)),
    )


def base_by_name(
    known: KnownBase, settings: Settings, environ: Mapping[str, str]
) -> tuple[Base, tuple[Problem, ...]]:
    """A known base that is not here, as its name describes it, and all errors of the settings
    about it and its files. Nothing is fetched; of gated files the Hub is asked."""
    search = Search(
        settings=settings,
        environ=environ,
        models_dir=Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR),
        fetches=False,
        on_stage=lambda name, detail: None,
        on_bytes=None,
    )
    shape, asked = known_shape(known), _access(known, environ)
    wrong = [*_contradictions(settings, shape), *errors_in(asked)]
    shape = settle_prediction(settings, shape)
    try:
        further = find_further(shape, search)
    except SettingsError as error:
        wrong += error.problems
        further = Further(files={})
    about = (*known_notices(known), *(each for each in asked if each.level != "error"))
    return _with_further(shape, further, about), tuple(wrong)


def _access(known: KnownBase, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """Whether the Hub gives a gated base to this user, where it does not or is not known to."""
    if not known.is_gated:
        return ()
    from tenner.base.source.access import access_problems

    return access_problems(known, environ)


def known_notices(known: KnownBase) -> tuple[Problem, ...]:
    """What is reported of a well-known base before it is fetched: its authors' advice, its
    licence."""
    advice = (Problem(text=known.advice, level="note"),) if known.advice else ()
    return (*advice, *_licence_notices(known), *family_notices(known.family))


def _licence_notices(known: KnownBase) -> tuple[Problem, ...]:
    """The warning of a base whose own licence is not for commercial use."""
    if not known.licence_note:
        return ()
    fix = msg("read its page: {url}", url=f"https://huggingface.co/{known.hub_id}")
    return (Problem(text=known.licence_note, fix=fix, level="warning"),)


def family_notices(family: Family) -> tuple[Problem, ...]:
    """What is reported of a family before training: its licence."""
    licence = FAMILIES[family].licence
    if licence is None or not licence.note:
        return ()
    return (
        Problem(
            text=licence.note,
            fix=msg("read {name}: {url}", name=licence.name, url=licence.url),
            level="note" if licence.is_commercial else "warning",
        ),
    )


def _fetched(
    address: "BaseAddress",
    settings: Settings,
    environ: Mapping[str, str],
    on_bytes: OnBytes | None,
) -> Base:
    from tenner.base.source import fetch_base

    fetched = fetch_base(
        address,
        cache=downloads_dir(environ) / "bases",
        secrets=secrets_from(environ)[0],
        environ=environ,
        on_bytes=on_bytes,
        sha256=settings.base_model_sha256 or address.sha256,
    )
    base = inspect_base(fetched.path, name=str(address))
    return replace(base, hub_id=fetched.hub_id, licence=fetched.licence)


def _described(
    address: "BaseAddress", settings: Settings, environ: Mapping[str, str], folder: Path
) -> Base:
    """The base as far as it can be known without its weights."""
    from tenner.base.source import fetch_heads

    found = fetch_heads(
        address,
        folder=folder,
        cache=downloads_dir(environ) / "bases",
        secrets=secrets_from(environ)[0],
        environ=environ,
    )
    if found is None:
        assert address.known is not None
        _hold_to_known_sha256(address, settings, address.sha256)
        how = msg("planned by what is known of {hub_id}", hub_id=address.known.hub_id)
        return _with_note(known_shape(address.known), address, how)
    try:
        digest = None if found.is_whole else found.sha256
        base = inspect_base(found.path, name=str(address), sha256=digest)
    except SettingsError as error:
        raise _with_address(error, found.path, address) from error
    base = replace(base, hub_id=found.hub_id, licence=found.licence)
    if not found.is_whole:
        _hold_to_known_sha256(address, settings, found.sha256)
        return _with_note(base, address, msg("planned by the heads of its files"))
    if settings.base_model_sha256:
        hold_to_sha256(base, settings.base_model_sha256)
    return base


def _hold_to_known_sha256(address: "BaseAddress", settings: Settings, known: str) -> None:
    """Raise SettingsError where the file's SHA-256 is known and differs from base_model_sha256."""
    expected = (settings.base_model_sha256 or "").lower().removeprefix("sha256:")
    if expected and known and expected != known:
        raise SettingsError(
            msg(
                "{address} is not the expected file: its SHA-256 is {found}",
                address=address,
                found=known,
            ),
            fix=msg("take the right file, or correct base_model_sha256"),
        )


def _with_note(base: Base, address: "BaseAddress", how: str) -> Base:
    notice = Problem(
        text=msg(
            "the base model {address} is not on this machine: {how}", address=address, how=how
        ),
        fix=msg("`tenner train` fetches it and checks its weights"),
        level="note",
    )
    return replace(base, notices=(*base.notices, notice))


def _with_address(error: SettingsError, path: Path, address: "BaseAddress") -> SettingsError:
    """The problems with the address in place of the folder that holds the heads."""

    def shown(text: str) -> str:
        return redacted(text, lambda each: each.replace(str(path), str(address)))

    problems = [replace(each, text=shown(each.text)) for each in error.problems]
    return SettingsError(problems=problems)


def settle_prediction(settings: Settings, base: Base) -> Base:
    """The base with the prediction and noise that the settings set, and a note of what was assumed.

    Contradictions between the two are reported by the rules (`rules.noise`).
    """
    is_v, snr = settings.v_parameterization, settings.zero_terminal_snr
    if base.prediction == "flow":
        return base  # settings that contradict it are reported by the rules
    notices = list(base.notices)
    if is_v is not None:
        prediction: Prediction = "v_prediction" if is_v else "epsilon"
        if base.contradiction or (base.prediction_from and prediction != base.prediction):
            notices.append(_overruled(base, prediction))
        evidence = Evidence(prediction=prediction, where="v_parameterization", is_firm=True)
        own_snr = base.zero_terminal_snr and is_v
        base = replace(with_evidence(base, [evidence]), zero_terminal_snr=own_snr)
    elif not base.prediction_from and base.family == "sdxl":
        notices.append(ASSUMED)
    snr = base.zero_terminal_snr if snr is None else snr
    return replace(base, zero_terminal_snr=snr, notices=tuple(notices))


ASSUMED = Problem(
    text=msg("the base does not state what it predicts: it is assumed to predict noise"),
    fix=msg("set v_parameterization = true if its page mentions v-prediction"),
    level="note",
)


def _overruled(base: Base, prediction: Prediction) -> Problem:
    own = PREDICTION_NAMES[base.prediction or "epsilon"]
    reason = base.contradiction or msg(
        "according to {prediction_from} it predicts {own}",
        prediction_from=base.prediction_from,
        own=own,
    )
    text = msg(
        "{reason}; trained as one that predicts {prediction_names}, as set",
        reason=reason,
        prediction_names=PREDICTION_NAMES[prediction],
    )
    return Problem(text=text, level="warning")


def _contradictions(settings: Settings, base: Base) -> list[Problem]:
    problems: list[Problem] = []
    if base.prediction == "flow":
        return problems  # options that have no meaning for flow are reported by the rules
    if settings.v2 is not None and settings.v2 != (base.family == "sd2"):
        verb = "is" if settings.v2 else msg("is not")
        problems.append(
            Problem(
                text=msg(
                    "v2 = {v2} states that {name} {verb} Stable Diffusion 2.x; its weights"
                    " show otherwise",
                    v2=str(settings.v2).lower(),
                    name=base.name,
                    verb=verb,
                ),
                fix=msg("remove v2"),
            )
        )
    is_v = settings.v_parameterization
    if base.contradiction and is_v is None:
        text = msg(
            "{name} is described in two ways: {contradiction}",
            name=base.name,
            contradiction=base.contradiction,
        )
        fix = msg("set v_parameterization = true for v, false for noise: its page states which")
        problems.append(Problem(text=text, fix=fix))
    elif base.prediction is None and is_v is None:
        problems.append(
            Problem(
                text=msg("{name} does not state what it predicts", name=base.name),
                fix=msg(
                    "set v_parameterization: true for the 768 px models of 2.x, false for the base"
                ),
            )
        )
    verb = base.is_firm and not base.contradiction and is_v is not None
    if verb and is_v != (base.prediction == "v_prediction"):
        text = msg(
            "v_parameterization = {value}, but {name} predicts otherwise according to"
            " {prediction_from}",
            value=str(is_v).lower(),
            name=base.name,
            prediction_from=base.prediction_from,
        )
        problems.append(Problem(text=text, fix=msg("remove v_parameterization")))
    return problems

"""Files that settings name, opened and understood before a run costs anything.

Pictures and captions are the dataset's, base models `base`'s, prompts and settings files are read
with the settings. Here are the others: the LoRA that a run starts from, the VAE, and files that
options of sd-scripts name.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenner.base.model import Base
from tenner.core.errors import Problem, SettingsError, errors_in
from tenner.core.messages import msg
from tenner.core.network_parts import PART_NAMES
from tenner.core.safetensors_head import read_safetensors_header
from tenner.families import FAMILY_NAMES, lora_family
from tenner.kohya.networks import LYCORIS
from tenner.lora_files import LoraFile, read_lora_file
from tenner.lora_files.base_modules import adaptable_modules
from tenner.lora_files.continuing import CONTINUED, LycorisStart, is_of_lycoris, lycoris_start
from tenner.planning.plan import EngineName
from tenner.rules.written import keyword_arguments
from tenner.settings import Request, Settings

_NAMING_FIXES = {
    "peft": "PEFT's",
    "diffusers": "diffusers'",
    "diffusers_old": msg("diffusers' before 0.22"),
    "comfyui": "ComfyUI's",
    "lycoris": "LyCORIS's",
    "unknown": "unknown",
}
_MOST_SHOWN = 4
_SIZES = ("conv_dim", "conv_alpha")
"""Arguments of a network that are settings of their own."""


def with_start_files(
    request: Request, base: Base | None, engine: EngineName | None = None
) -> Request:
    """The request with rank and alpha of the LoRA that it starts from, and what is to be reported.

    Idempotent. Raises SettingsError with all that is wrong with the files. Without `base` or
    `engine` what hangs on them is left for later.
    """
    settings = request.settings
    problems = [*_vae(settings), *_of_options(settings, base)]
    if settings.network_weights:
        try:
            found = _start_from(request, settings.network_weights, base, engine)
            problems += found.problems
            settings = settings.model_copy(update=found.decided)
        except SettingsError as error:
            problems += [_of_weights(each) for each in error.problems]
        except OSError as error:
            text = msg(
                "network_weights = {network_weights}: {strerror}",
                network_weights=settings.network_weights,
                strerror=error.strerror or error,
            )
            problems.append(Problem(text=text, fix=msg("check the file")))
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))
    notices = dict.fromkeys((*request.notices, *problems))
    return replace(request, settings=settings, notices=tuple(notices))


def _of_weights(problem: Problem) -> Problem:
    return replace(problem, text=msg("network_weights: {text}", text=problem.text))


@dataclass(frozen=True, kw_only=True)
class _Start:
    """Settings that the LoRA decides, and what is to be reported of it."""

    decided: dict[str, Any]
    problems: Sequence[Problem]


def _start_from(
    request: Request, path: str, base: Base | None, engine: EngineName | None
) -> _Start:
    settings = request.settings
    lora = read_lora_file(Path(path).expanduser())
    problems = [*_wrong_kind(lora), *_other_family(lora, base)]
    if problems:
        return _Start(decided={}, problems=problems)
    if start := lycoris_start(lora):
        return _from_lycoris(request, lora, start, engine)
    decided: dict[str, Any] = {"network_weights": str(lora.path)}
    if _is_uneven(lora):
        problems += _uneven(lora, settings, engine)
        decided["engine_options"] = {**settings.engine_options, "dim_from_weights": True}
    ranks = {
        "network_dim": lora.ranks(),
        "network_alpha": lora.alphas(),
        "conv_dim": lora.ranks(convolutions=True),
        "conv_alpha": lora.alphas(convolutions=True),
    }
    for key, values in ranks.items():
        if values:
            problems += _held_to(request, key, values[0])
            decided[key] = values[0]
    is_here = base is not None and base.path.exists()  # not one that is known by its name alone
    if base and is_here and base.facts.transformer is None:
        problems += _modules(lora, base, settings)
    return _Start(decided=decided, problems=problems)


def _from_lycoris(
    request: Request, lora: LoraFile, start: LycorisStart, engine: EngineName | None
) -> _Start:
    """A LyCORIS network is made as the file's was, and then filled by the names of its tensors."""
    settings, name = request.settings, lora.path.name
    problems: list[Problem] = []
    if engine == "native":
        text = msg(
            "network_weights = {name} is a LyCORIS network, which the built-in trainer cannot"
            " train",
            name=name,
        )
        fix = msg("train with sd-scripts (engine = 'sd-scripts')")
        problems.append(Problem(text=text, fix=fix))
    sizes = {"network_dim": start.network_dim, "network_alpha": start.network_alpha}
    sizes |= {key: float(start.arguments[key]) for key in _SIZES if key in start.arguments}
    for key, value in sizes.items():
        problems += _held_to(request, key, value)
    given = keyword_arguments(settings.network_args)
    own = {key: value for key, value in start.arguments.items() if key not in _SIZES}
    for key, value in own.items():
        if key in given and str(given[key]).lower() != value.lower():
            text = msg(
                "network_args: {key} = {asked}, but network_weights has {value}",
                key=key,
                asked=given[key],
                value=value,
            )
            problems.append(Problem(text=text, fix=msg("remove {key}", key=key)))
    if request.source("network_module") != "default" and settings.network_module != LYCORIS:
        text = msg(
            "network_module = {module}, but network_weights is of {own}",
            module=settings.network_module,
            own=LYCORIS,
        )
        problems.append(Problem(text=text, fix=msg("remove network_module")))
    added = tuple(f"{key}={value}" for key, value in own.items() if key not in given)
    decided = {
        **{key: int(value) if key.endswith("dim") else value for key, value in sizes.items()},
        "network_weights": str(lora.path),
        "network_module": LYCORIS,
        "network_args": (*settings.network_args, *added),
    }
    return _Start(decided=decided, problems=problems)


def _wrong_kind(lora: LoraFile) -> list[Problem]:
    """A LoRA whose names or kind the trainers do not resume from."""
    other = [kind for kind in lora.kinds if kind not in CONTINUED]
    if not other and is_of_lycoris(lora) and lycoris_start(lora) is None:
        text = msg(
            "network_weights = {name} is a LyCORIS network, and its metadata do not state how it"
            " was made (ss_network_args)",
            name=lora.path.name,
        )
        fix = msg("take the file that sd-scripts wrote, with its metadata")
        return [Problem(text=text, fix=fix)]
    if other:
        text = msg(
            "network_weights = {name} is a network of the kind {other}",
            name=lora.path.name,
            other=", ".join(other),
        )
        fix = msg("start from one of these kinds, or leave network_weights out")
        return [
            Problem(
                text=msg(
                    "{text}, and only LoRA, DoRA, LoHa and LoKr can be trained further", text=text
                ),
                fix=fix,
            )
        ]
    if lora.naming != "kohya":
        whose = _NAMING_FIXES[lora.naming]
        return [
            Problem(
                text=msg(
                    "network_weights = {name} has {whose} names of modules, and the"
                    " trainers read kohya's",
                    name=lora.path.name,
                    whose=whose,
                ),
                fix=msg(
                    "convert it with convert_state_dict_to_kohya of diffusers.utils, or"
                    " take the file for A1111 or ComfyUI where its maker offers one"
                ),
            )
        ]
    if lora.num_incomplete:
        text = msg(
            "network_weights = {name}: {num_incomplete} modules are incomplete",
            name=lora.path.name,
            num_incomplete=lora.num_incomplete,
        )
        return [Problem(text=text, fix=msg("save or download it again"))]
    return []


def _other_family(lora: LoraFile, base: Base | None) -> list[Problem]:
    if base is None or (lora.family or base.family) in (base.family, lora_family(base.family)):
        return []
    text = msg(
        "network_weights = {name} is a LoRA of {architecture} (by its",
        name=lora.path.name,
        architecture=lora.architecture,
    )
    text = msg(
        "{text} {family_from}), and {name} is {family_names}",
        text=text,
        family_from=lora.family_from,
        name=base.name,
        family_names=FAMILY_NAMES[base.family],
    )
    return [
        Problem(text=text, fix=msg("start from a LoRA of the same family, or train on its base"))
    ]


def _is_uneven(lora: LoraFile) -> bool:
    """Whether modules have different ranks or alphas."""
    return any(
        len(each(convolutions=kind)) > 1
        for each in (lora.ranks, lora.alphas)
        for kind in (False, True)
    )


def _uneven(lora: LoraFile, settings: Settings, engine: EngineName | None) -> Iterator[Problem]:
    ranks = ", ".join(map(str, sorted(lora.ranks())))
    name = msg("network_weights = {name}", name=lora.path.name)
    if engine == "native":
        text = msg(
            "{name} has modules of different rank or alpha ({ranks})", name=name, ranks=ranks
        )
        fix = msg("train with sd-scripts (engine = 'sd-scripts'), which takes each from the file")
        yield Problem(
            text=msg("{text}, and the built-in trainer has one for all", text=text), fix=fix
        )
    elif settings.network_dropout or settings.network_args:
        text = msg(
            "{name} has modules of different rank or alpha: sd-scripts then takes no dropout",
            name=name,
        )
        fix = msg("remove network_dropout and network_args")
        yield Problem(text=msg("{text} and no arguments of the network", text=text), fix=fix)
    elif engine:
        text = msg(
            "{name}: rank and alpha of each module are taken from the file ({ranks})",
            name=name,
            ranks=ranks,
        )
        yield Problem(text=text, level="note")


def _held_to(request: Request, key: str, value: float) -> Iterator[Problem]:
    """Problems of a setting that differs from the file's value; a preset's is only a proposal."""
    requested, source = getattr(request.settings, key), request.source(key)
    if requested == value:
        return
    if source != "default" and not source.startswith("preset"):
        text = msg(
            "{key} = {requested} ({source}), but network_weights has {value}",
            key=key,
            requested=f"{requested:g}",
            source=source,
            value=f"{value:g}",
        )
        yield Problem(
            text=text, fix=msg("set {key} = {value}, or leave it out", key=key, value=f"{value:g}")
        )
        return
    yield Problem(
        text=msg("{key} = {value}, as network_weights has it", key=key, value=f"{value:g}"),
        level="note",
    )


def _modules(lora: LoraFile, base: Base, settings: Settings) -> Iterator[Problem]:
    """Modules of the file that the base lacks or has in another size, and the other way round."""
    convolutions = bool(lora.ranks(convolutions=True) or settings.conv_dim)
    adaptable = adaptable_modules(base, convolutions=convolutions)
    inside = {each.name: each for each in lora.modules}
    name = msg("network_weights = {name}", name=lora.path.name)
    foreign = [
        each
        for each, module in inside.items()
        if each not in adaptable or adaptable[each][:2] != (module.out_features, module.in_features)
    ]
    if foreign:
        text = msg(
            "{name}: {n} of {n2} modules do not fit {name2}",
            name=name,
            n=len(foreign),
            n2=len(inside),
            name2=base.name,
        )
        fix = msg("start from a LoRA that was trained on a base of this architecture")
        yield Problem(text=msg("{text}: {some}", text=text, some=_some(foreign)), fix=fix)
        return
    trained = {each for each in adaptable if _is_trained(each, settings)}
    if left_out := [each for each in inside if each not in trained]:
        text = msg(
            "{name}: {n} modules ({parts}) are not in the result",
            name=name,
            n=len(left_out),
            parts=_parts(lora, left_out),
        )
        fix = msg("train that part too to keep them")
        yield Problem(text=text, fix=fix, level="warning")
    if missing := sorted(trained - inside.keys()):
        text = msg(
            "{name} lacks {n} of {n2} modules, which start at zero",
            name=name,
            n=len(missing),
            n2=len(trained),
        )
        yield Problem(text=msg("{text}: {some}", text=text, some=_some(missing)), level="warning")


def _is_trained(module: str, settings: Settings) -> bool:
    if module.startswith("lora_te"):
        return not settings.network_train_unet_only
    return not settings.network_train_text_encoder_only


def _parts(lora: LoraFile, names: Sequence[str]) -> str:
    parts = Counter(PART_NAMES[each.part] for each in lora.modules if each.name in set(names))
    return ", ".join(parts)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_SHOWN])
    return f"{shown} …" if len(names) > _MOST_SHOWN else shown


def _vae(settings: Settings) -> Iterator[Problem]:
    if not settings.vae:
        return
    path, fix = (
        Path(settings.vae).expanduser(),
        msg("name a folder in diffusers layout or a .safetensors"),
    )
    text = f"vae = {settings.vae}"
    if not path.exists():
        yield Problem(text=msg("{text}: there is no such file or folder", text=text), fix=fix)
    elif path.is_dir():
        if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
            yield Problem(
                text=msg("{text}: it has no config.json beside .safetensors weights", text=text),
                fix=fix,
            )
    else:
        try:
            names = read_safetensors_header(path)
        except SettingsError as error:
            yield from (
                replace(each, text=msg("vae: {text}", text=each.text)) for each in error.problems
            )
            return
        parts = ("decoder.", "first_stage_model.decoder.")
        if not any(name.startswith(parts) for name in names):
            yield Problem(text=msg("{text} is no VAE: it has no decoder", text=text), fix=fix)


def _of_options(settings: Settings, base: Base | None) -> Iterator[Problem]:
    """Files that sd-scripts' own options name."""
    options = settings.engine_options
    given = options.get("base_weights")
    for each in given if isinstance(given, tuple) else ():
        try:
            lora = read_lora_file(Path(str(each)).expanduser())
            wrong = _other_family(lora, base)
        except SettingsError as error:
            wrong = error.problems
        for problem in wrong:
            text = problem.text.replace("network_weights", "base_weights", 1)
            yield replace(
                problem,
                text=text if "base_weights" in text else msg("base_weights: {text}", text=text),
            )
    if tracker := options.get("log_tracker_config"):
        try:
            tomllib.loads(Path(str(tracker)).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            text = msg(
                "log_tracker_config = {tracker} cannot be read: {error}",
                tracker=tracker,
                error=error,
            )
            yield Problem(text=text, fix=msg("name a TOML file, or remove it"))
    if options.get("tokenizer_cache_dir"):
        text = msg("tokenizer_cache_dir is left out: the tokenizers come with tenner")
        yield Problem(text=text, level="note")

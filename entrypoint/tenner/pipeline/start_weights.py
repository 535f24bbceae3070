"""The LoRA that a run starts from (`network_weights`): whether it can, and what it decides."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenner.base.model import Base
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.network_parts import PART_NAMES
from tenner.families import FAMILY_NAMES, lora_family
from tenner.kohya.networks import IA3_ARGUMENTS, LYCORIS
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


@dataclass(frozen=True, kw_only=True)
class Start:
    """Settings that the LoRA decides, and what is to be reported of it."""

    decided: dict[str, Any]
    problems: Sequence[Problem]


def start_from(request: Request, path: str, base: Base | None, engine: EngineName | None) -> Start:
    settings = request.settings
    lora = read_lora_file(Path(path).expanduser())
    problems = [*_wrong_kind(lora), *other_family(lora, base)]
    if problems:
        return Start(decided={}, problems=problems)
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
    return Start(decided=decided, problems=problems)


def _from_lycoris(
    request: Request, lora: LoraFile, start: LycorisStart, engine: EngineName | None
) -> Start:
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
    sizes: dict[str, float] = {}
    if "ia3" not in lora.kinds:  # it has none, and reads none of them
        sizes = {"network_dim": start.network_dim, "network_alpha": start.network_alpha}
        sizes |= {key: float(start.arguments[key]) for key in _SIZES if key in start.arguments}
    for key, value in sizes.items():
        problems += _held_to(request, key, value)
    given = keyword_arguments(settings.network_args)
    own = {key: value for key, value in start.arguments.items() if key not in _SIZES}
    if "ia3" in lora.kinds:
        own = {key: value for key, value in own.items() if key in IA3_ARGUMENTS}
    for key, value in own.items():
        if key in given and not _is_same(str(given[key]), value):
            text = msg(
                "network_args: {key} = {given}, but network_weights has {value}",
                key=key,
                given=given[key],
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
    return Start(decided=decided, problems=problems)


def _is_same(given: str, own: str) -> bool:
    """Files by their names alone: metadata have no folders of other machines."""
    if own.endswith(".toml"):
        return Path(given).name == Path(own).name
    return given.lower() == own.lower()


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
            "network_weights = {name} is a network of the kind {other}, and only LoRA, DoRA,"
            " LoHa, LoKr and (IA)³ can be trained further",
            name=lora.path.name,
            other=", ".join(other),
        )
        fix = msg("start from one of these kinds, or leave network_weights out")
        return [Problem(text=text, fix=fix)]
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


def other_family(
    lora: LoraFile, base: Base | None, *, setting: str = "network_weights"
) -> list[Problem]:
    """The problem of a LoRA that `setting` names and whose family is not that of `base`."""
    if base is None or (lora.family or base.family) in (base.family, lora_family(base.family)):
        return []
    text = msg(
        "{setting} = {name} is a LoRA of {architecture} (by its {source}), and {base} is {family}",
        setting=setting,
        name=lora.path.name,
        architecture=lora.architecture,
        source=lora.family_from,
        base=base.name,
        family=FAMILY_NAMES[base.family],
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
            "{name} has modules of different rank or alpha ({ranks}), and the built-in trainer has"
            " one for all",
            name=name,
            ranks=ranks,
        )
        fix = msg("train with sd-scripts (engine = 'sd-scripts'), which takes each from the file")
        yield Problem(text=text, fix=fix)
    elif settings.network_dropout or settings.network_args:
        text = msg(
            "{name} has modules of different rank or alpha: sd-scripts then takes no dropout and no"
            " arguments of the network",
            name=name,
        )
        yield Problem(text=text, fix=msg("remove network_dropout and network_args"))
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
            "{name}: {count} of {total} modules do not fit {base}: {some}",
            name=name,
            count=len(foreign),
            total=len(inside),
            base=base.name,
            some=_some(foreign),
        )
        fix = msg("start from a LoRA that was trained on a base of this architecture")
        yield Problem(text=text, fix=fix)
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
            "{name} lacks {count} of {total} modules, which start at zero: {some}",
            name=name,
            count=len(missing),
            total=len(trained),
            some=_some(missing),
        )
        yield Problem(text=text, level="warning")


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

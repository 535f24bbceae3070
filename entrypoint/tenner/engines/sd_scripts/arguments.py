"""A plan's options as arguments of sd-scripts: its own names, its own string forms.

Arguments are checked by its parser, which its config file is not. Every option is reachable: those
that a plan decides, and any other that passed `facts.check`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tenner.core.family import Family
from tenner.families import FAMILIES, FamilyFacts
from tenner.kohya.options import Value, options, read_value
from tenner.kohya.warmup import takes_no_warmup


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where sd-scripts reads and writes.

    `train_data_dir` holds folders named `10_concept`; `tokenizers` holds `openai_clip-vit-…`.
    """

    base_model: Path
    train_data_dir: Path
    output_dir: Path
    output_name: str
    logging_dir: Path
    reg_data_dir: Path | None = None
    tokenizers: Path | None = None
    vae: Path | None = None
    sample_prompts: Path | None = None
    further: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Text encoders and autoencoder of the families that have them in files of their own."""

    def options(self) -> dict[str, Value]:
        """These paths as options of sd-scripts."""
        found: dict[str, Path | str | None] = {
            "pretrained_model_name_or_path": self.base_model,
            "train_data_dir": self.train_data_dir,
            "reg_data_dir": self.reg_data_dir,
            "output_dir": self.output_dir,
            "output_name": self.output_name,
            "logging_dir": self.logging_dir,
            "tokenizer_cache_dir": self.tokenizers,
            "vae": self.vae,
            "sample_prompts": self.sample_prompts,
            **self.further,
        }
        return {name: str(value) for name, value in found.items() if value is not None}


def translate(planned: Mapping[str, object], *, family: Family) -> dict[str, Value]:
    """tenner's keys, each decided, as options of sd-scripts.

    Keys that sd-scripts does not know and that need no other form (destinations, budget, samples,
    paths) are left out; options that it does know are passed on. Raises ValueError where a value is
    not of the option's type, which is a bug of the caller: users' values are checked before.
    """
    facts = FAMILIES[family]
    planned = {key: value for key, value in planned.items() if key not in facts.without}
    found = {
        key: value for key, value in planned.items() if value is not None and _is_passed_on(key)
    }
    if found.get("max_token_length") == 75:  # its own default, which it does not take as a word
        del found["max_token_length"]
    found |= _attention(planned) | _network_args(planned) | _caches(planned, family=family)
    found |= _workers(found)
    if takes_no_warmup(found):
        found["lr_warmup_steps"] = 0
    found |= _warmup_for_processes(found, int(str(planned.get("num_processes") or 1)))
    found |= _of_family(found, facts)
    decided = {**_DEFAULTS, "network_module": facts.lora_module, **found}
    if decided["network_module"] == "networks.lora":
        decided["network_module"] = facts.lora_module
    if decided["network_module"] == "networks.oft" and facts.script == "flux_train_network.py":
        decided["network_module"] = "networks.oft_flux"
    known = {name: options()[name].of(facts.script) for name in decided}
    return {
        name: read_value(known[name], value)
        for name, value in decided.items()
        if known[name].is_of(facts.script) and value is not None
    }


def _of_family(found: Mapping[str, object], facts: FamilyFacts) -> dict[str, object]:
    """Options that the family decides; None for those that its script is not given."""
    if facts.name == "sdxl":  # SDXL's own VAE overflows in fp16; clip_skip has no effect there
        return {"no_half_vae": found.get("no_half_vae", True), "clip_skip": None, "v2": None}
    decided: dict[str, object] = {"v2": True if facts.name == "sd2" else None}
    if facts.transformer:
        decided |= {"max_token_length": None, **facts.required}
    return decided


def arguments(values: Mapping[str, Value]) -> tuple[str, ...]:
    """`values` as arguments. Switches that are off are left out.

    Raises KeyError for an unknown option and ValueError for a value it cannot have.
    """
    found: list[str] = []
    for name, value in values.items():
        option = options()[name]
        checked = read_value(option, value)
        if option.kind == "switch":
            found += [f"--{name}"] if checked else []
        elif isinstance(checked, tuple):
            found += _many(name, checked)
        else:
            found.append(f"--{name}={_text(checked)}")
    return tuple(found)


def _many(name: str, values: Sequence[Value]) -> list[str]:
    texts = [_text(value) for value in values]
    for text in texts:
        if text.startswith("-") and not re.fullmatch(r"-\d+|-\d*\.\d+", text):
            raise ValueError(f"{name}: {text} would be taken for an option")
    return [f"--{name}", *texts] if texts else []


def _text(value: Value) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _is_passed_on(key: str) -> bool:
    return key in options() and key not in _DECIDED_ELSEWHERE


def _attention(options: Mapping[str, object]) -> dict[str, Value]:
    chosen = options.get("attention")
    if chosen not in ("xformers", "sdpa"):
        return {}
    return {"xformers": chosen == "xformers", "sdpa": chosen == "sdpa"}


def _network_args(options: Mapping[str, object]) -> dict[str, Value]:
    """Ranks of the 3×3 convolutions go by the network's own arguments."""
    given = options.get("network_args")
    args = [str(each) for each in given] if isinstance(given, list | tuple) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    named = {each.partition("=")[0] for each in args}
    for key in ("conv_dim", "conv_alpha"):
        if options.get(key) is not None and key not in named:
            args.append(f"{key}={options[key]}")  # noqa: PERF401 clearer than a comprehension
    return {"network_args": tuple(args)} if args else {}


def _caches(options: Mapping[str, object], *, family: Family) -> dict[str, Value]:
    """Encode once what does not change from step to step."""
    found: dict[str, Value] = {}
    if not (options.get("random_crop") or options.get("color_aug")):
        found["cache_latents"] = options.get("cache_latents") is not False
    changing = ("shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate")
    changing += ("token_warmup_step", "caption_dropout_every_n_epochs", "enable_wildcard")
    set_by_user = options.get("cache_text_encoder_outputs")
    has_it = family == "sdxl" or FAMILIES[family].transformer is not None
    if has_it and options.get("network_train_unet_only") and set_by_user is None:
        found["cache_text_encoder_outputs"] = not any(options.get(key) for key in changing)
    caches = found.get("cache_text_encoder_outputs", set_by_user)
    if caches and FAMILIES[family].has_captions_on_disk:
        found["cache_text_encoder_outputs_to_disk"] = True
    return found


def _workers(found: Mapping[str, object]) -> dict[str, Value]:
    """Cached latents are handed over in the process itself: faster than by a worker, and nothing
    goes through /dev/shm, which is 64 MB in a container. Workers that there are stay alive between
    epochs; without any, sd-scripts dies when that is requested."""
    set_by_user = found.get("max_data_loader_n_workers")
    workers = (
        int(str(set_by_user))
        if set_by_user is not None
        else (0 if found.get("cache_latents") else 2)
    )
    return {
        "max_data_loader_n_workers": workers,
        "persistent_data_loader_workers": workers > 0,
    }


def _warmup_for_processes(found: Mapping[str, object], num_processes: int) -> dict[str, Value]:
    """accelerate moves the scheduler once for each process at every step, and sd-scripts scales
    only the run's length by that: whole warm-up steps would pass that many times too fast."""
    if num_processes == 1:
        return {}
    scaled: dict[str, Value] = {}
    for key in ("lr_warmup_steps", "lr_decay_steps"):
        steps = found.get(key)
        if isinstance(steps, int | float) and steps >= 1:
            scaled[key] = int(steps) * num_processes
    return scaled


_DECIDED_ELSEWHERE = frozenset(
    (
        "pretrained_model_name_or_path",
        "train_data_dir",
        "reg_data_dir",
        "output_dir",
        "output_name",
        "logging_dir",
        "tokenizer_cache_dir",
        "vae",
        "sample_prompts",
        "max_train_epochs",
        "max_train_steps",
    )
)
"""Set by `Paths` and by the attempt of the run: epochs would overrule an attempt's number of
steps."""

_DEFAULTS: Mapping[str, object] = {
    "caption_extension": ".txt",  # sd-scripts' own default is .caption
    "save_model_as": "safetensors",
}
"""What a run needs and sd-scripts' defaults lack."""

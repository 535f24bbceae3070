"""Rules of the network: its ranks, and which parts of the base it is laid over."""

from collections.abc import Iterator, Sequence
from dataclasses import fields

from tenner.core.errors import Problem
from tenner.core.messages import Message, msg
from tenner.core.suggest import nearest_name
from tenner.core.train_job import TrainJob
from tenner.families import FAMILIES
from tenner.kohya.networks import LYCORIS, NETWORKS, PLAIN, is_drawn
from tenner.rules.rule import OWN, SD_SCRIPTS, Check, Rule
from tenner.rules.view import View
from tenner.rules.written import keyword_arguments, written_problems

OWN_NETWORK_ARGS = {
    "conv_dim": "conv_dim",
    "conv_alpha": "conv_alpha",
    "dropout": "network_dropout",
    "rank_dropout": "rank_dropout",
    "module_dropout": "module_dropout",
}
"""sd-scripts' arguments of the network that the built-in trainer has, with its own names."""

_SET_ELSEWHERE = frozenset(
    (
        *("network_args", "network_module", "no_metadata", "cache_latents", "masked_loss"),
        *("cache_latents_to_disk", "cache_text_encoder_outputs", "persistent_data_loader_workers"),
    )
)
"""Options that the built-in trainer obeys under another name, or always."""


def _unknown_network_args(view: View) -> Iterator[Problem]:
    for key in keyword_arguments(view.words("network_args")):
        if key not in OWN_NETWORK_ARGS:
            yield Problem(
                text=msg("the built-in trainer has no network argument {key}", key=key),
                fix=_other_module(key, PLAIN["networks.lora"])
                or msg("remove it, or train with sd-scripts (engine = 'sd-scripts')"),
            )


def _other_module(key: str, known: Sequence[str]) -> Message | None:
    """What to do about an argument that LyCORIS has, such as DoRA's, and `known` has not."""
    if key in known or key not in NETWORKS[LYCORIS].arguments:
        return None
    return msg(
        "set network_module = 'lycoris.kohya', which has {key} and which sd-scripts trains"
        " (leave engine out)",
        key=key,
    )


def _wrong_kind(view: View) -> Iterator[Problem]:
    """A kind of network that the family cannot have, and arguments that it would pass over."""
    module = view.text("network_module") or "networks.lora"
    facts = FAMILIES.get(view.family or "")
    kind = NETWORKS.get(module)
    if kind and facts and kind.scripts and facts.script not in kind.scripts:
        yield Problem(
            text=msg(
                "network_module = {module} cannot be laid over {family}",
                module=module,
                family=facts.title,
            ),
            fix=msg("use networks.lora, or lycoris.kohya"),
        )
    own = facts.lora_module if facts and module == "networks.lora" else module
    known = kind.arguments if kind else PLAIN.get(own)
    for key in keyword_arguments(view.words("network_args")) if known is not None else ():
        if key not in (known or ()):
            near = nearest_name(key, list(known or ()))
            fix = msg("did you mean {near}?", near=near) if near else msg("remove {name}", name=key)
            fix = _other_module(key, known or ()) or fix
            text = msg("{module} has no argument {key}", module=own, key=key)
            yield Problem(text=text, fix=fix)


def _unknown_options(view: View) -> Iterator[Problem]:
    """Options of sd-scripts that the built-in trainer does not have, each with the way out."""
    own = {each.name for each in fields(TrainJob)} | _SET_ELSEWHERE
    for key in view.options:
        if key not in own:
            yield Problem(
                text=msg("the built-in trainer has no {key}", key=key),
                fix=msg("remove {key}, or train with sd-scripts (engine = 'sd-scripts')", key=key),
            )


def _is_undrawn(view: View) -> bool:
    facts = FAMILIES.get(view.family or "")
    return facts is not None and not is_drawn(view.text("network_module") or None, facts)


def _conv(view: View) -> dict[str, object]:
    """conv_dim and conv_alpha, as settings or as arguments of the network."""
    found = keyword_arguments(view.words("network_args"))
    for key in ("conv_dim", "conv_alpha"):
        if view.values.get(key) is not None:
            found[key] = view.values[key]
    return {key: found[key] for key in ("conv_dim", "conv_alpha") if key in found}


def _conv_alpha_is_open(view: View) -> bool:
    return "conv_dim" in _conv(view) and "conv_alpha" not in _conv(view)


def _second_rate(view: View) -> bool:
    """`networks.lora` has one rate for SDXL's two text encoders: the first that is given."""
    trained = not view.on("network_train_unet_only")
    return view.family == "sdxl" and trained and len(set(view.numbers("text_encoder_lr"))) > 1


RULES = (
    Rule(
        when=_is_undrawn,
        text=lambda view: msg(
            "no samples are drawn with {module} over {family}: diffusers does not load its files",
            module=view.text("network_module"),
            family=FAMILIES[view.family].title if view.family else "",
        ),
        fix=msg("look at it in ComfyUI, A1111 or Forge"),
        level="note",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=_second_rate,
        text=lambda view: msg(
            "sd-scripts trains both text encoders at one rate, {numbers}: {numbers2}"
            " would be left out",
            numbers=f"{view.numbers('text_encoder_lr')[0]:g}",
            numbers2=f"{view.numbers('text_encoder_lr')[1]:g}",
        ),
        fix=msg("give one rate, or train with the built-in trainer (engine = 'native')"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.on("network_train_unet_only", "network_train_text_encoder_only"),
        text=msg(
            "network_train_unet_only and network_train_text_encoder_only leave nothing to train"
        ),
        fix=msg("set one of them to false"),
        needs="settings",
    ),
    Rule(
        when=lambda view: (
            view.on("network_train_unet_only") and any(view.numbers("text_encoder_lr"))
        ),
        text=msg("text_encoder_lr has no effect with network_train_unet_only"),
        fix=msg("remove one of them"),
        level="warning",
        needs="settings",
    ),
    Rule(
        when=lambda view: _conv_alpha_is_open(view) and view.text("network_module") != LYCORIS,
        text=lambda view: msg(
            "conv_alpha is not set: 1, as in sd-scripts, so the convolutions are scaled"
            " by 1/{conv}",
            conv=_conv(view)["conv_dim"],
        ),
        fix=msg("set conv_alpha; as large as conv_dim for a scale of 1"),
        level="note",
        needs="settings",
    ),
    Rule(
        when=lambda view: "conv_alpha" in _conv(view) and "conv_dim" not in _conv(view),
        text=msg("conv_alpha has no effect without conv_dim"),
        fix=msg("set conv_dim too"),
        needs="settings",
    ),
    Rule(
        when=lambda view: view.get("network_alpha") == 0,
        text=lambda view: msg(
            "network_alpha = 0 ({source}) is the dim itself in sd-scripts and nothing elsewhere",
            source=view.source("network_alpha"),
        ),
        fix=lambda view: msg(
            "write network_alpha = {network_dim}", network_dim=view.text("network_dim")
        ),
        needs="settings",
    ),
    Check(find=lambda view: written_problems(view, "network_args"), needs="settings"),
    Check(find=_wrong_kind, trainers=SD_SCRIPTS, needs="trainer"),
    Check(find=_unknown_network_args, trainers=OWN, needs="trainer"),
    Check(find=_unknown_options, trainers=OWN, needs="trainer"),
    Rule(
        when=lambda view: view.on("dim_from_weights") and not view.on("network_weights"),
        text=msg("dim_from_weights needs network_weights"),
        fix=msg("set network_weights, or remove dim_from_weights"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.on("base_weights_multiplier") and not view.on("base_weights"),
        text=msg("base_weights_multiplier needs base_weights"),
        fix=msg("set base_weights, or remove base_weights_multiplier"),
        level="warning",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
)

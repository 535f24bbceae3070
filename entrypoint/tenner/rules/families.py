"""Rules of the families: options that one has not, and those that it cannot be without."""

from collections.abc import Iterator

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.families import FAMILIES, FamilyFacts
from tenner.kohya.options import options
from tenner.rules.rule import SD_SCRIPTS, Check, Rule
from tenner.rules.view import View

_HAVE_THEIR_OWN_RULE = (
    "cache_text_encoder_outputs",
    "cache_text_encoder_outputs_to_disk",
    "disable_mmap_load_safetensors",
)


def _facts(view: View) -> FamilyFacts | None:
    return FAMILIES[view.family] if view.family else None


def _is_transformer(view: View) -> bool:
    facts = _facts(view)
    return facts is not None and facts.transformer is not None


def _without(view: View) -> Iterator[Problem]:
    """Options that the user set and the family cannot use."""
    facts = _facts(view)
    if facts is None:
        return
    for name, why in facts.without.items():
        if view.is_set(name) and view.on(name):
            yield Problem(
                text=msg(
                    "{name} has no meaning for {family}: {why}",
                    name=name,
                    family=facts.title,
                    why=why,
                ),
                fix=msg("remove {name}", name=name),
            )


def _required(view: View) -> Iterator[Problem]:
    """Options that the user set otherwise than the family needs."""
    facts = _facts(view)
    if facts is None:
        return
    for name, value in facts.required.items():
        if view.is_set(name) and view.get(name) != value:
            yield Problem(
                text=msg(
                    "{name} = {given}, and {family} needs {value}",
                    name=name,
                    given=view.text(name),
                    family=facts.title,
                    value=value,
                ),
                fix=msg("remove {name}: it is set by itself", name=name),
            )


def _of_other_scripts(view: View) -> Iterator[Problem]:
    """Options of sd-scripts that the family's script does not have."""
    facts = _facts(view)
    if facts is None:
        return
    for name in view.options:
        option = options().get(name)
        known = option is None or option.is_of(facts.script) or name in _HAVE_THEIR_OWN_RULE
        if known or name in facts.without or not view.is_set(name):
            continue
        yield Problem(
            text=msg(
                "{name} is not for {family}: sd-scripts' {script} has no such option",
                name=name,
                family=facts.title,
                script=facts.script,
            ),
            fix=msg("remove {name}, or name another base_model", name=name),
        )


def _choices_of_the_script(view: View) -> Iterator[Problem]:
    """Words that other scripts know and the family's does not."""
    facts = _facts(view)
    if facts is None:
        return
    for name, value in view.options.items():
        option = options().get(name)
        own = option.of(facts.script) if option else None
        if own and own.choices and view.is_set(name) and value not in own.choices:
            yield Problem(
                text=msg(
                    "{name} = {value}: want {expected}",
                    name=name,
                    value=value,
                    expected=own.expected,
                ),
                fix=msg("write one of these, or remove {name}", name=name),
            )


def _most_swapped(view: View) -> int | None:
    facts = _facts(view)
    return facts.transformer.blocks.most_swapped if facts and facts.transformer else None


def _swaps_too_many(view: View) -> bool:
    most = _most_swapped(view)
    return most is not None and view.number("blocks_to_swap") > most


def _has_ae(view: View) -> bool:
    facts = _facts(view)
    return facts is not None and any(each.option == "ae" for each in facts.files)


RULES = (
    Check(find=_without, needs="trainer"),
    Rule(
        when=lambda view: _has_ae(view) and view.is_set("vae"),
        text=lambda view: msg(
            "vae is not read for {family}: its autoencoder is named by ae",
            family=FAMILIES[view.family or ""].title,
        ),
        fix=msg("write ae = instead of vae ="),
        needs="trainer",
    ),
    Rule(
        when=_swaps_too_many,
        text=lambda view: msg(
            "blocks_to_swap = {given}, and of {family} sd-scripts swaps {most} at most",
            given=view.text("blocks_to_swap"),
            family=FAMILIES[view.family or ""].title,
            most=_most_swapped(view),
        ),
        fix=msg("lower it, or leave blocks_to_swap out: the plan swaps as many as the card needs"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Check(find=_required, needs="trainer"),
    Check(find=_of_other_scripts, trainers=SD_SCRIPTS, needs="trainer"),
    Check(find=_choices_of_the_script, trainers=SD_SCRIPTS, needs="trainer"),
    Rule(
        when=lambda view: (
            _is_transformer(view) and view.on("blocks_to_swap", "cpu_offload_checkpointing")
        ),
        text=msg("blocks_to_swap and cpu_offload_checkpointing cannot be had together"),
        fix=msg("remove cpu_offload_checkpointing"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: _is_transformer(view) and view.number("max_token_length") > 75,
        text=lambda view: msg(
            "max_token_length has no effect on {family}, whose captions may be longer",
            family=FAMILIES[view.family or ""].title,
        ),
        fix=msg("remove max_token_length; t5xxl_max_token_length is the option for T5"),
        level="warning",
        needs="trainer",
    ),
)

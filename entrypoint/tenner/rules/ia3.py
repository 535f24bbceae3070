"""Rules of (IA)³ of LyCORIS: where it can be trained, what it reads, and how fast it learns."""

from collections.abc import Iterator

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.families import FAMILIES
from tenner.kohya.networks import IA3, IA3_ARGUMENTS, IA3_RATE, LYCORIS, NETWORKS, is_ia3
from tenner.optimizers import find_optimizer
from tenner.rules.rule import SD_SCRIPTS, Check, Rule
from tenner.rules.view import View
from tenner.rules.written import keyword_arguments

_WITHOUT_EFFECT = ("network_dropout", "conv_dim", "conv_alpha", "scale_weight_norms")
_RANK = ("network_dim", "network_alpha")
_LEAST_RATE = 1e-3
"""A fifth of the least that LyCORIS recommends."""


def _is_ia3(view: View) -> bool:
    return is_ia3(view.text("network_module"), view.words("network_args"))


def _is_of_transformer(view: View) -> bool:
    """Transformers have none of the modules that its preset names, and the one program that loads
    it, A1111, loads no LoRA of theirs."""
    facts = FAMILIES.get(view.family or "")
    return facts is not None and facts.transformer is not None


def _unread(view: View) -> Iterator[Problem]:
    """Arguments of LyCORIS' other kinds, and settings that become such arguments."""
    if not _is_ia3(view):
        return
    words = keyword_arguments(view.words("network_args"))
    others = [key for key in words if key in NETWORKS[LYCORIS].arguments]  # the rest are of no kind
    unread = [key for key in others if key not in IA3_ARGUMENTS]
    unread += [key for key in _WITHOUT_EFFECT if view.values.get(key)]
    for key in dict.fromkeys(unread):
        yield Problem(
            text=msg("(IA)³ does not read {key}", key=key), fix=msg("remove {key}", key=key)
        )


def _preset_of_another(view: View) -> bool:
    given = keyword_arguments(view.words("network_args"))
    return (
        view.text("network_module") == LYCORIS and given.get("preset") == IA3 and not _is_ia3(view)
    )


def _low_rate(view: View) -> bool:
    optimizer = find_optimizer(view.optimizer)
    if not _is_ia3(view) or (optimizer and optimizer.finds_rate):
        return False
    return 0 < _rate(view) < _LEAST_RATE


def _rate(view: View) -> float:
    """The U-Net's rate that the user set; 0 where it is open."""
    keys = [key for key in ("unet_lr", "learning_rate") if view.is_set(key)]
    return view.number(keys[0]) if keys else 0.0


RULES = (
    Rule(
        when=lambda view: _is_ia3(view) and _is_of_transformer(view),
        text=lambda view: msg(
            "(IA)³ cannot be trained on {family}: LyCORIS' preset for it adapts no block there, and"
            " no program loads such a file",
            family=FAMILIES[view.family or ""].title,
        ),
        fix=msg("use another kind, such as algo=loha or algo=lokr"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Check(find=_unread, trainers=SD_SCRIPTS, needs="trainer"),
    Rule(
        when=_preset_of_another,
        text=msg("LyCORIS' preset ia3 adapts nothing with another kind than algo=ia3"),
        fix=msg("use the preset attn-mlp, or algo=ia3"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: _is_ia3(view) and not _is_of_transformer(view),
        text=msg("of the programs known here A1111 alone loads (IA)³, not Forge and ComfyUI"),
        fix=msg("use algo=loha or algo=lokr for these"),
        level="warning",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: _is_ia3(view) and any(view.is_set(key) for key in _RANK),
        text=lambda view: msg(
            "(IA)³ has neither rank nor alpha: {keys} has no effect",
            keys=", ".join(key for key in _RANK if view.is_set(key)),
        ),
        fix=msg("leave it out"),
        level="note",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=_low_rate,
        text=lambda view: msg(
            "a learning rate of {rate} is low for (IA)³, for which LyCORIS recommends 5e-3 to 1e-2",
            rate=f"{_rate(view):g}",
        ),
        fix=msg("set learning_rate = {rate}, or leave it out", rate=f"{IA3_RATE:g}"),
        level="warning",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
)

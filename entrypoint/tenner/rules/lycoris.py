"""Rules of lycoris.kohya: words that it does not know, and those that go wrong in training.

Facts of lycoris-lora 3.4.0, which a contract test holds against the installed one.
"""

from collections.abc import Iterator, Mapping, Sequence

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.families import FAMILIES
from tenner.kohya.networks import ALGORITHMS, BESIDE_THE_BASE, IA3, LYCORIS, PRESETS
from tenner.rules.rule import SD_SCRIPTS, Check
from tenner.rules.view import View
from tenner.rules.written import keyword_arguments

IN_8_BITS = ("fp8_base", "fp8_base_unet", "fp8_scaled")
"""sd-scripts' options that hold the weights of U-Net or transformer in 8 bits."""


def adds_to_weights(network_module: str | None, network_args: Sequence[str]) -> bool:
    """Whether each step adds the update to the base's weights, in their precision.

    torch does not add in 8 bits: the first step fails over a base that is held so.
    """
    given = keyword_arguments(network_args)
    if network_module != LYCORIS or _algorithm(given) == "glora":
        return False
    return not _is_on(given, "bypass_mode")


def _algorithm(given: Mapping[str, object]) -> str:
    return str(given.get("algo", "lora")).lower()


def _is_on(given: Mapping[str, object], name: str) -> bool:
    """As LyCORIS reads it: everything is true that is not the word false."""
    return str(given.get(name, False)).lower() != "false"


def _wrong_words(view: View) -> Iterator[Problem]:
    """Words that LyCORIS does not know, would only warn of, or finds no module for."""
    if view.text("network_module") != LYCORIS:
        return
    given = keyword_arguments(view.words("network_args"))
    algorithm = _algorithm(given)
    preset = str(given.get("preset", IA3 if algorithm == IA3 else "full"))
    if algorithm not in ALGORITHMS:
        yield Problem(
            text=msg("lycoris.kohya has no algo {name}", name=algorithm),
            fix=msg("use one of {known}", known=", ".join(ALGORITHMS)),
        )
    if preset not in PRESETS and not preset.endswith(".toml"):
        yield Problem(
            text=msg("lycoris.kohya has no preset {name}", name=preset),
            fix=msg("use one of {known}, or a .toml file", known=", ".join(PRESETS)),
        )
    facts = FAMILIES.get(view.family or "")
    if facts and preset in facts.lycoris_passes_over:
        fix = msg("use the preset full, or a .toml file with its blocks in unet_target_module")
        if "full" in facts.lycoris_passes_over:
            fix = msg("use networks.lora, or a .toml preset with its blocks in unet_target_module")
        yield Problem(
            text=msg(
                "LyCORIS' preset {name} adapts no block of {family}",
                name=preset,
                family=facts.title,
            ),
            fix=fix,
        )
    if _is_on(given, "train_t5xxl") and preset in PRESETS:
        yield Problem(
            text=msg("LyCORIS' preset {name} adapts no module of T5", name=preset),
            fix=msg(
                "remove train_t5xxl, or use a .toml preset with T5's blocks in"
                " text_encoder_target_module"
            ),
        )
    if "lycoris" in view.missing_packages:
        yield Problem(
            text=msg("lycoris-lora is not installed with the trainer"),
            fix=msg("install it into the Python of TENNER_TRAINER_PYTHON, without dependencies"),
        )


def _beside_the_base(view: View) -> Iterator[Problem]:
    """`bypass_mode`, and a base in 8 bits, which needs it."""
    args = view.words("network_args")
    given = keyword_arguments(args)
    if view.text("network_module") != LYCORIS:
        return
    algorithm = _algorithm(given)
    has_it = algorithm in BESIDE_THE_BASE
    if _is_on(given, "bypass_mode") and not has_it and algorithm in ALGORITHMS:
        yield Problem(
            text=msg(
                "bypass_mode with algo={name} fails in the training of LyCORIS 3.4.0",
                name=algorithm,
            ),
            fix=msg("remove bypass_mode"),
        )
    if _is_on(given, "bypass_mode") and _is_on(given, "dora_wd"):
        yield Problem(
            text=msg("bypass_mode leaves dora_wd out: the network would be no DoRA"),
            fix=msg("remove one of them"),
        )
    held = next((each for each in IN_8_BITS if view.on(each)), None)
    if held and adds_to_weights(LYCORIS, args):
        can_bypass = has_it and not _is_on(given, "dora_wd")
        yield Problem(
            text=msg(
                "{name} holds the base in 8 bits, and LyCORIS cannot add to such weights: the"
                " first step would fail",
                name=held,
            ),
            fix=msg('remove {name}, or add "bypass_mode=True" to network_args', name=held)
            if can_bypass
            else msg("remove {name}", name=held),
        )


RULES = (
    Check(find=_wrong_words, trainers=SD_SCRIPTS, needs="trainer"),
    Check(find=_beside_the_base, trainers=SD_SCRIPTS, needs="trainer"),
)

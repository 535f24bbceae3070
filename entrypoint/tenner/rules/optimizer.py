"""Rules of the optimizer, its arguments, its learning rates and its schedule."""

from collections.abc import Iterator

from tenner.core.errors import Problem
from tenner.core.messages import NO_TEXT, Message, msg
from tenner.core.suggest import nearest_name
from tenner.kohya.warmup import takes_no_warmup
from tenner.optimizers import OPTIMIZERS, Kind, Optimizer, find_optimizer
from tenner.rules.rule import OWN, SD_SCRIPTS, Check, Rule
from tenner.rules.view import View
from tenner.rules.written import keyword_arguments, written_problems

_FORMS: dict[Kind, str] = {
    "number": msg("a number"),
    "switch": msg("True or False"),
    "numbers": msg("numbers in brackets, such as (0.9,0.99)"),
}
_SET_ELSEWHERE = {"lr": "learning_rate", "learning_rate": "learning_rate"}
_SET_BY_OWN = {"adamw": ("fused", "foreach"), "adam": ("fused", "foreach"), "sgdnesterov": ()}
"""Arguments that the built-in trainer sets by itself."""


def _found(view: View) -> Optimizer | None:
    return find_optimizer(view.optimizer, sd_scripts=view.trainer == "sd-scripts")


def _unknown_to_sd_scripts(view: View) -> Iterator[Problem]:
    if "." not in view.optimizer and _found(view) is None:
        yield _unknown(view, "sd-scripts", [each.name for each in OPTIMIZERS])


def _unknown_to_own(view: View) -> Iterator[Problem]:
    found = _found(view)
    if found is None or not found.is_own:
        own = [each.name for each in OPTIMIZERS if each.is_own]
        yield _unknown(view, msg("the built-in trainer"), own)


def _unknown(view: View, trainer: str, known: list[str]) -> Problem:
    by_lower = {each.lower(): each for each in known}
    near = nearest_name(view.optimizer.lower(), by_lower, least=60)
    fix = (
        msg("did you mean {by_lower}?", by_lower=by_lower[near])
        if near
        else msg("use one of {known}", known=", ".join(known))
    )
    return Problem(
        text=msg(
            "{trainer} knows no optimizer {optimizer}", trainer=trainer, optimizer=view.optimizer
        ),
        fix=fix,
    )


def _package_missing(view: View) -> Iterator[Problem]:
    found = _found(view)
    if found and found.package in view.missing_packages:
        way = "Prodigy" if found.finds_rate and found.name != "Prodigy" else "AdamW"
        yield Problem(
            text=msg(
                "optimizer_type = {name} needs the package {package}, which is not installed",
                name=found.name,
                package=found.package,
            ),
            fix=msg('install it, or set optimizer_type = "{way}"', way=way),
        )


def _arguments(view: View) -> Iterator[Problem]:
    """Arguments that the optimizer does not take, or whose values have another form."""
    found = find_optimizer(view.optimizer)
    if found is None:
        return
    given = keyword_arguments(view.words("optimizer_args"))
    for key, value in given.items():
        kind = found.arguments.get(key)
        if key in _SET_ELSEWHERE:
            setting = _SET_ELSEWHERE[key]
            yield Problem(
                text=msg("optimizer_args: {key} is a setting of its own", key=key),
                fix=msg(
                    "set {setting} = {value}, and take it out of optimizer_args",
                    setting=setting,
                    value=value,
                ),
            )
        elif kind is None:
            near = nearest_name(key, found.arguments, least=60)
            names = msg("it takes {arguments}", arguments=", ".join(found.arguments))
            yield Problem(
                text=msg("optimizer_args: {name} does not take {key}", name=found.name, key=key),
                fix=msg("did you mean {near}?", near=near) if near else names,
            )
        elif not isinstance(value, str) and not _has_form(value, kind):
            yield Problem(
                text=msg(
                    "optimizer_args: {key}={shown} is not {forms}",
                    key=key,
                    shown=_shown(value),
                    forms=_FORMS[kind],
                ),
                fix=_corrected(key, value)
                or msg("write {key} as {forms}, without spaces", key=key, forms=_FORMS[kind]),
            )


def _set_by_the_trainer(view: View) -> Iterator[Problem]:
    for key in keyword_arguments(view.words("optimizer_args")):
        if key in _SET_BY_OWN.get(view.optimizer.lower(), ()):
            text = msg(
                "optimizer_args: the built-in trainer decides {key} of {optimizer} itself",
                key=key,
                optimizer=view.optimizer,
            )
            yield Problem(text=text, fix=msg("remove {key}", key=key))


def _has_form(value: object, kind: Kind) -> bool:
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "switch":
        return isinstance(value, bool)
    return kind == "any" or (isinstance(value, tuple | list) and bool(value))  # pyright: ignore[reportUnknownArgumentType]


def _shown(value: object) -> str:
    return str(value).replace(" ", "")


def _corrected(key: str, value: object) -> Message:
    """A number with a comma behind it was read as a list of one."""
    if isinstance(value, tuple) and len(value) == 1:  # pyright: ignore[reportUnknownArgumentType]
        return msg(
            "write {key}={value}, without a comma: arguments are parted by spaces",
            key=key,
            value=str(value[0]),  # pyright: ignore[reportUnknownArgumentType]
        )
    return NO_TEXT


def _rates(view: View) -> dict[str, float]:
    """The learning rate of each part that is trained, by the setting that sets it."""
    rate = view.number("learning_rate")
    found: dict[str, float] = {}
    if not view.on("network_train_text_encoder_only"):
        unet_lr = view.values.get("unet_lr")
        found["learning_rate" if unet_lr is None else "unet_lr"] = (
            rate if unet_lr is None else float(str(unet_lr))
        )
    if not view.on("network_train_unet_only") and view.values.get("text_encoder_lr"):
        for each in view.numbers("text_encoder_lr"):
            found["text_encoder_lr"] = max(each, found.get("text_encoder_lr", 0.0))
    return {key: each for key, each in found.items() if each > 0}


def _rates_differ(view: View) -> bool:
    optimizer = find_optimizer(view.optimizer)
    if optimizer is None or optimizer.groups_may_differ:
        return False
    given = {*_rates(view).values(), *(each for each in _text_rates(view) if each > 0)}
    return len(given) > 1


def _text_rates(view: View) -> tuple[float, ...]:
    return () if view.on("network_train_unet_only") else view.numbers("text_encoder_lr")


def _uses_rate(view: View) -> bool:
    """Adafactor with relative steps looks at no learning rate."""
    return keyword_arguments(view.words("optimizer_args")).get("relative_step") is not True


def _impossible_rates(view: View) -> Iterator[Problem]:
    found = find_optimizer(view.optimizer)
    if found is None or not _uses_rate(view):
        return
    least, most = found.possible_rates
    for key, rate in _rates(view).items():
        if least <= rate < most:
            continue
        how = msg("learns nothing") if rate < least else "diverges"
        yield Problem(
            text=msg(
                "{key} = {rate}: {name} {how} at such a rate",
                key=key,
                rate=f"{rate:g}",
                name=found.name,
                how=how,
            ),
            fix=_usual_rate(found, key),
        )


def _unusual_rates(view: View) -> Iterator[Problem]:
    found = find_optimizer(view.optimizer)
    if found is None or not _uses_rate(view):
        return
    (least, most), (floor, ceiling) = found.rates, found.possible_rates
    for key, rate in _rates(view).items():
        if floor <= rate < ceiling and not least <= rate <= most:
            yield Problem(
                text=msg(
                    "{key} = {rate} is outside of {least} to {most}, the rates at which"
                    " {name} trains a LoRA",
                    key=key,
                    rate=f"{rate:g}",
                    least=f"{least:g}",
                    most=f"{most:g}",
                    name=found.name,
                ),
                fix=_usual_rate(found, key),
                level="warning",
            )


def _usual_rate(optimizer: Optimizer, key: str) -> Message:
    if optimizer.finds_rate:
        return msg(
            "set {key} = 1, or leave it out: {name} finds the rate by itself",
            key=key,
            name=optimizer.name,
        )
    return msg(
        "set {key} between {rates} and {rates2}",
        key=key,
        rates=f"{optimizer.rates[0]:g}",
        rates2=f"{optimizer.rates[1]:g}",
    )


def _schedule_without_effect(view: View) -> bool:
    found = find_optimizer(view.optimizer)
    return bool(found and found.has_own_schedule) and (
        view.get("lr_scheduler") not in ("constant", None) or view.on("lr_warmup_steps")
    )


def _relative_steps(view: View) -> bool:
    given = keyword_arguments(view.words("optimizer_args"))
    return view.optimizer.lower() == "adafactor" and given.get("relative_step") is True


def _scales_no_rate(view: View) -> bool:
    found = find_optimizer(view.optimizer)
    is_asked = view.is_set("scale_lr") and view.get("scale_lr") != "none"
    return bool(found and found.finds_rate) and (is_asked or view.is_set("lr_batch_size"))


RULES = (
    Rule(
        when=lambda view: view.is_set("ema_decay") and not view.on("ema"),
        text=msg("ema_decay has no effect without ema"),
        fix=msg("set ema = true, or remove ema_decay"),
        level="warning",
        needs="settings",
    ),
    Rule(
        when=_scales_no_rate,
        text=lambda view: msg(
            "scale_lr and lr_batch_size have no effect with {optimizer}, which finds its rate",
            optimizer=view.optimizer,
        ),
        fix=msg("remove them"),
        level="warning",
        needs="settings",
    ),
    Rule(
        when=lambda view: (
            view.is_set("lr_batch_size")
            and view.is_set("scale_lr")
            and view.get("scale_lr") == "none"
        ),
        text=msg('lr_batch_size has no effect with scale_lr = "none"'),
        fix=msg("remove one of them"),
        level="warning",
        needs="settings",
    ),
    Check(find=lambda view: written_problems(view, "optimizer_args"), needs="settings"),
    Check(find=lambda view: written_problems(view, "lr_scheduler_args"), needs="settings"),
    Check(find=_arguments, needs="settings"),
    Check(find=_arguments),  # of the one that replaces an 8-bit one that is not available
    Check(find=_set_by_the_trainer, trainers=OWN, needs="trainer"),
    Check(find=_unknown_to_sd_scripts, trainers=SD_SCRIPTS, needs="trainer"),
    Check(find=_unknown_to_own, trainers=OWN, needs="trainer"),
    Check(find=_package_missing, needs="trainer"),
    Rule(
        when=_rates_differ,
        text=lambda view: msg(
            "{optimizer} takes one learning rate for all parts, and they differ: {items}",
            optimizer=view.optimizer,
            items=", ".join((f"{key} = {rate:g}" for key, rate in _rates(view).items())),
        ),
        fix=msg(
            "set them to the same, 1 is recommended, or leave unet_lr and text_encoder_lr"
            " out; text_encoder_lr = 0 leaves the text encoder out"
        ),
    ),
    Check(find=_impossible_rates, needs="settings"),
    Check(find=_unusual_rates, needs="settings"),
    Rule(
        when=_schedule_without_effect,
        text=lambda view: msg(
            "lr_scheduler and lr_warmup_steps have no effect with {optimizer}, which"
            " needs no schedule",
            optimizer=view.optimizer,
        ),
        fix=msg('remove them; optimizer_args "warmup_steps=100" makes a warm-up'),
        level="warning",
        needs="settings",
    ),
    Rule(
        when=_relative_steps,
        text=msg("the built-in trainer gives Adafactor its rate: relative_step=True cannot be had"),
        fix=msg("take relative_step out of optimizer_args, or train with sd-scripts"),
        trainers=OWN,
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.on("fused_backward_pass") and view.optimizer.lower() != "adafactor",
        text=msg("fused_backward_pass works with Adafactor only"),
        fix=msg('set optimizer_type = "Adafactor", or remove fused_backward_pass'),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: (
            view.on("fused_backward_pass") and view.number("gradient_accumulation_steps") > 1
        ),
        text=msg("fused_backward_pass does not accumulate gradients"),
        fix=msg("set gradient_accumulation_steps = 1, or remove fused_backward_pass"),
        trainers=SD_SCRIPTS,
    ),
    Rule(
        when=lambda view: (
            view.is_set("lr_warmup_steps")
            and view.on("lr_warmup_steps")
            and takes_no_warmup(view.values)
        ),
        text=msg("this lr_scheduler takes no warm-up steps"),
        fix=msg('set lr_warmup_steps = 0, or lr_scheduler = "constant_with_warmup"'),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: (
            view.get("lr_scheduler") == "cosine_with_min_lr"
            and view.get("lr_scheduler_min_lr_ratio") is None
            and not view.words("lr_scheduler_args")
        ),
        text=msg("cosine_with_min_lr does not know how low to go"),
        fix=msg("set lr_scheduler_min_lr_ratio, such as 0.1"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
)

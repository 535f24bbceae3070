"""The table of optimizers.

Names are those that sd-scripts' `get_optimizer` knows at the pinned commit, and torch's own that it
finds by name. Arguments are the signatures of torch 2.4, bitsandbytes 0.50, lion-pytorch 0.2,
prodigyopt 1.1, schedulefree 1.4, dadaptation 3.2 and transformers 4.54.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "switch", "numbers", "any"]
"""What an argument takes; `numbers` is a tuple."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """One optimizer.

    `state_bytes` are stored on the card for each trained number. `rates` are the learning rates
    that train a LoRA; outside of them a run is warned of, and outside of `possible_rates`, where
    nothing is learnt or everything diverges, it is refused.
    """

    name: str
    package: str
    """The module that holds it."""
    arguments: Mapping[str, Kind]
    state_bytes: float
    rates: tuple[float, float] = (1e-6, 1e-2)
    possible_rates: tuple[float, float] = (0.0, 1.0)
    """The upper end is outside."""
    finds_rate: bool = False
    """It estimates the step size itself: the learning rate is a factor of about 1, and parameter
    groups must have the same."""
    has_own_schedule: bool = False
    """sd-scripts gives it no schedule: `lr_scheduler` and `lr_warmup_steps` have no effect."""
    is_own: bool = False
    """The built-in trainer has it."""
    case_counts: bool = False
    """sd-scripts looks it up in torch by this very name."""
    recommended_args: tuple[str, ...] = ()
    """Arguments that are given unless the user sets them."""
    source: str = ""
    """Who recommends it."""

    @property
    def groups_may_differ(self) -> bool:
        return not self.finds_rate


_ADAM: Mapping[str, Kind] = {"betas": "numbers", "eps": "number", "weight_decay": "number"}
_TORCH: Mapping[str, Kind] = {
    "foreach": "any",
    "maximize": "switch",
    "capturable": "switch",
    "differentiable": "switch",
}
_FUSED: Mapping[str, Kind] = {**_TORCH, "fused": "any"}
_FUSED_SIMPLE: Mapping[str, Kind] = {
    "foreach": "any",
    "maximize": "switch",
    "differentiable": "switch",
    "fused": "any",
}
_8BIT: Mapping[str, Kind] = {"args": "any", "min_8bit_size": "number"}
_BNB_ADAM: Mapping[str, Kind] = {**_ADAM, **_8BIT, "amsgrad": "switch", "optim_bits": "number"}
_LION: Mapping[str, Kind] = {"betas": "numbers", "weight_decay": "number"}
_SGD: Mapping[str, Kind] = {
    "momentum": "number",
    "dampening": "number",
    "weight_decay": "number",
}
_ANY_RATE = (1e-6, 10.0)
_NO_LIMIT = (0.0, float("inf"))

_PLAIN = (
    Optimizer(
        name="AdamW",
        package="torch",
        arguments={**_ADAM, **_FUSED, "amsgrad": "switch"},
        state_bytes=8,
        is_own=True,
    ),
    Optimizer(
        name="Adam",
        package="torch",
        arguments={**_ADAM, **_FUSED, "amsgrad": "switch"},
        state_bytes=8,
        is_own=True,
        case_counts=True,
    ),
    Optimizer(
        name="SGD",
        package="torch",
        arguments={**_SGD, **_FUSED_SIMPLE, "nesterov": "switch"},
        state_bytes=0,
        rates=_ANY_RATE,
        possible_rates=_NO_LIMIT,
        is_own=True,
        case_counts=True,
    ),
    Optimizer(
        name="SGDNesterov",
        package="torch",
        arguments={**_SGD, **_FUSED_SIMPLE},
        state_bytes=4,
        rates=_ANY_RATE,
        possible_rates=_NO_LIMIT,
        is_own=True,
    ),
    Optimizer(
        name="Lion",
        package="lion_pytorch",
        arguments={**_LION, "use_triton": "switch", "decoupled_weight_decay": "switch"},
        state_bytes=4,
        rates=(1e-7, 3e-3),
        is_own=True,
        source="lion-pytorch's README: 3 to 10 times less than AdamW's",
    ),
    Optimizer(
        name="Adafactor",
        package="transformers",
        arguments={
            "eps": "numbers",
            "clip_threshold": "number",
            "decay_rate": "number",
            "beta1": "any",
            "weight_decay": "number",
            "scale_parameter": "switch",
            "relative_step": "switch",
            "warmup_init": "switch",
        },
        state_bytes=0,  # a row and a column for a matrix
        is_own=True,
        recommended_args=("relative_step=False", "scale_parameter=False", "warmup_init=False"),
        source="sd-scripts, docs/train_network.md: for a learning rate of one's own",
    ),
)

_Row = tuple[str, Mapping[str, Kind], float, tuple[float, float]]
_BNB_ROWS: tuple[_Row, ...] = (
    ("AdamW8bit", {**_BNB_ADAM, "is_paged": "switch"}, 2, (1e-6, 1e-2)),
    ("PagedAdamW8bit", _BNB_ADAM, 2, (1e-6, 1e-2)),
    ("PagedAdamW", _BNB_ADAM, 8, (1e-6, 1e-2)),
    ("PagedAdamW32bit", _BNB_ADAM, 8, (1e-6, 1e-2)),
    ("Lion8bit", {**_LION, **_8BIT, "is_paged": "switch"}, 1, (1e-7, 3e-3)),
    ("PagedLion8bit", {**_LION, **_8BIT}, 1, (1e-7, 3e-3)),
    ("SGDNesterov8bit", {**_SGD, **_8BIT}, 1, _ANY_RATE),
)
_BITSANDBYTES = tuple(
    Optimizer(
        name=name,
        package="bitsandbytes",
        arguments=arguments,
        state_bytes=state,
        rates=rates,
        is_own=name == "AdamW8bit",
    )
    for name, arguments, state, rates in _BNB_ROWS
)

_DADAPT: Mapping[str, Kind] = {
    "weight_decay": "number",
    "log_every": "number",
    "d0": "number",
    "growth_rate": "number",
}
_DADAPT_ADAM: Mapping[str, Kind] = {
    **_DADAPT,
    **_ADAM,
    "decouple": "switch",
    "fsdp_in_use": "switch",
}
_DADAPT_ADAN: Mapping[str, Kind] = {**_DADAPT, **_ADAM, "no_prox": "switch"}
_DADAPT_ADAMW = ("decouple=True", "weight_decay=0.01")

_DADAPT_ROWS: tuple[tuple[str, Mapping[str, Kind], float, tuple[str, ...]], ...] = (
    ("DAdaptation", _DADAPT_ADAM, 12, _DADAPT_ADAMW),
    ("DAdaptAdamPreprint", _DADAPT_ADAM, 12, _DADAPT_ADAMW),
    ("DAdaptAdam", {**_DADAPT_ADAM, "use_bias_correction": "switch"}, 12, _DADAPT_ADAMW),
    ("DAdaptAdaGrad", {**_DADAPT, "momentum": "number", "eps": "number"}, 12, ()),
    ("DAdaptAdan", _DADAPT_ADAN, 16, ()),
    ("DAdaptAdanIP", _DADAPT_ADAN, 16, ()),
    ("DAdaptLion", {**_DADAPT, **_LION, "fsdp_in_use": "switch"}, 8, ()),
    ("DAdaptSGD", {**_DADAPT, "momentum": "number", "fsdp_in_use": "switch"}, 12, ()),
)
_RATE_FINDING = (
    Optimizer(
        name="Prodigy",
        package="prodigyopt",
        arguments={
            **_ADAM,
            "beta3": "any",
            "decouple": "switch",
            "use_bias_correction": "switch",
            "safeguard_warmup": "switch",
            "d0": "number",
            "d_coef": "number",
            "growth_rate": "number",
            "fsdp_in_use": "switch",
            "slice_p": "number",
        },
        state_bytes=16,
        rates=(0.3, 3.0),
        possible_rates=(0.01, 100.0),
        finds_rate=True,
        is_own=True,
        recommended_args=(
            "decouple=True",
            "weight_decay=0.01",
            "use_bias_correction=True",
            "safeguard_warmup=True",
        ),
        source="Prodigy's README, on diffusion models",
    ),
    *(
        Optimizer(
            name=name,
            package="dadaptation",
            arguments=arguments,
            state_bytes=state,
            rates=(0.3, 3.0),
            possible_rates=(0.01, 100.0),
            finds_rate=True,
            recommended_args=args,
            source="dadaptation's README: a learning rate of 1",
        )
        for name, arguments, state, args in _DADAPT_ROWS
    ),
)

_FREE: Mapping[str, Kind] = {
    "weight_decay": "number",
    "r": "number",
    "weight_lr_power": "number",
    "foreach": "any",
}
_FREE_ROWS: tuple[_Row, ...] = (
    ("AdamWScheduleFree", {**_FREE, **_ADAM, "warmup_steps": "number"}, 8, (1e-6, 2e-2)),
    ("RAdamScheduleFree", {**_FREE, **_ADAM, "silent_sgd_phase": "switch"}, 8, (1e-6, 2e-2)),
    (
        "SGDScheduleFree",
        {**_FREE, "momentum": "number", "warmup_steps": "number"},
        4,
        _ANY_RATE,
    ),
)
_SCHEDULE_FREE = tuple(
    Optimizer(
        name=name,
        package="schedulefree",
        arguments=arguments,
        state_bytes=state,
        rates=rates,
        possible_rates=_NO_LIMIT if name.startswith("SGD") else (0.0, 1.0),
        has_own_schedule=True,
        source="schedulefree's README: no schedule, and a constant learning rate",
    )
    for name, arguments, state, rates in _FREE_ROWS
)


def _numbers(*names: str) -> dict[str, Kind]:
    number: Kind = "number"
    return dict.fromkeys(names, number)


def _joined(one: Mapping[str, Kind], other: Mapping[str, Kind]) -> dict[str, Kind]:
    return {**one, **other}


_DECOUPLED: Mapping[str, Kind] = {"decoupled_weight_decay": "switch"}
_OTHERS: tuple[tuple[str, Mapping[str, Kind], float], ...] = (
    ("ASGD", _numbers("lambd", "alpha", "t0", "weight_decay"), 4),
    ("Adadelta", _numbers("rho", "eps", "weight_decay"), 8),
    (
        "Adagrad",
        {
            **_numbers("lr_decay", "eps", "weight_decay", "initial_accumulator_value"),
            **_FUSED_SIMPLE,
        },
        4,
    ),
    ("Adamax", _ADAM, 8),
    ("NAdam", {**_ADAM, **_DECOUPLED, "momentum_decay": "number"}, 8),
    ("RAdam", {**_ADAM, **_DECOUPLED}, 8),
    (
        "RMSprop",
        {**_numbers("alpha", "eps", "weight_decay", "momentum"), "centered": "switch"},
        4,
    ),
    ("Rprop", {"etas": "numbers", "step_sizes": "numbers"}, 8),
)
_OTHERS_OF_TORCH = tuple(
    Optimizer(
        name=name,
        package="torch",
        arguments=arguments if "fused" in arguments else _joined(arguments, _TORCH),
        state_bytes=state,
        rates=_ANY_RATE,
        possible_rates=_NO_LIMIT,
        case_counts=True,
    )
    for name, arguments, state in _OTHERS
)

OPTIMIZERS: tuple[Optimizer, ...] = (
    *_BITSANDBYTES,
    *_PLAIN,
    *_RATE_FINDING,
    *_SCHEDULE_FREE,
    *_OTHERS_OF_TORCH,
)
_BY_NAME = {each.name.lower(): each for each in OPTIMIZERS}


def find_optimizer(name: str, *, sd_scripts: bool = False) -> Optimizer | None:
    """The optimizer of that name; with `sd_scripts` only where that finds it in this spelling."""
    found = _BY_NAME.get(name.lower())
    if found and sd_scripts and found.case_counts and found.name != name:
        return None
    return found


def state_bytes(name: str) -> float:
    """Bytes of an optimizer's state for each number it trains; AdamW's for an unknown one."""
    found = find_optimizer(name)
    return found.state_bytes if found else 8

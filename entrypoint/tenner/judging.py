"""The rules between options (`tenner.rules`) held against a request, and against its plan.

What the user wrote is judged when it is read (`settings.resolve`); here it is judged with the
trainer and the family, before the base is fetched and the images are read, and with the plan.
"""

from collections.abc import Mapping
from dataclasses import replace

from tenner.base.model import Base, Family, known_base
from tenner.engines.choice import choose_engine
from tenner.errors import MachineError, Problem, SettingsError, errors_in
from tenner.planning.plan import EngineName, Plan
from tenner.rules import View, judge
from tenner.settings import Request
from tenner.settings.view import view_of


def judge_request(
    request: Request, *, trainer: EngineName, family: Family | None
) -> tuple[Problem, ...]:
    """What the rules say of what the user wrote, for this trainer and family."""
    return judge(replace(_view(request), knows="trainer", trainer=trainer, family=family))


def judge_plan(request: Request, plan: Plan) -> tuple[Problem, ...]:
    """What the rules say of the decided values."""
    view = _view(request)
    return judge(
        replace(
            view,
            values={**view.values, **plan.options},
            knows="plan",
            trainer=plan.engine,
            family=plan.base.family,
            base_predicts_v=plan.base.prediction == "v_prediction",
        )
    )


def judge_early(
    request: Request, environ: Mapping[str, str], base: Base | None
) -> tuple[Problem, ...]:
    """`judge_request` with what can be known before the base is there: its family by its name,
    and the trainer by what is installed."""
    settings = request.settings
    known = known_base(settings.base_model)
    family = base.family if base else known.family if known else None
    noise = "" if base is None or base.betas.is_usual else str(base.betas)
    tiny = bool(base and base.is_tiny)
    try:
        trainer = choose_engine(settings, environ, tiny=tiny, other_noise=noise).name
    except (MachineError, SettingsError):
        return ()
    return judge_request(request, trainer=trainer, family=family)


def raise_errors(problems: tuple[Problem, ...]) -> None:
    """Raises SettingsError with all that forbids going on."""
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))


def _view(request: Request) -> View:
    return view_of(
        request.settings,
        request.said_at,
        has_regularisation_folders=any(each.is_reg for each in request.subsets),
    )

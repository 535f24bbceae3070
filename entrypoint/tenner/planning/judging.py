"""The rules between options (`tenner.rules`) applied to a request, and to its plan.

What the user wrote is judged when it is read (`settings.resolve`); here it is judged with the
trainer and the family, before the base is fetched and the images are read, and with the plan.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tenner.base.model import Base
from tenner.core.errors import MachineError, Problem, SettingsError, errors_in
from tenner.core.family import Family
from tenner.engines.choice import choose_engine, missing_modules
from tenner.engines.train_options import TrainOptions
from tenner.kohya.networks import LYCORIS
from tenner.optimizers import find_optimizer
from tenner.optimizers.trial import try_optimizer
from tenner.planning.plan import EngineName, Plan
from tenner.rules import View, judge
from tenner.rules.written import keyword_arguments
from tenner.settings import Request, Settings
from tenner.settings.known_bases import known_base
from tenner.settings.view import view_of


def judge_request(
    request: Request, *, trainer: EngineName, family: Family | None, python: Path | None = None
) -> tuple[Problem, ...]:
    """Problems of the user's settings by the rules, for this trainer and family.

    `python` is the trainer's, where it is on this machine.
    """
    view = replace(_view(request), knows="trainer", trainer=trainer, family=family)
    return judge(replace(view, missing_packages=_missing(request, python) if python else ()))


def judge_started(
    written: Request,
    started: Settings,
    *,
    trainer: EngineName,
    family: Family | None,
    python: Path | None = None,
) -> tuple[Problem, ...]:
    """`judge_request` where the network is that of `network_weights`, as `started` has it from
    there; empty where it is the one that was written."""
    network = {name: getattr(started, name) for name in ("network_module", "network_args")}
    settings = written.settings.model_copy(update=network)
    if settings == written.settings:
        return ()
    request = replace(written, settings=settings)
    return judge_request(request, trainer=trainer, family=family, python=python)


def _missing(request: Request, python: Path) -> tuple[str, ...]:
    """The optimizer's and the network's packages that are not installed, without
    bitsandbytes, which has a fallback."""
    optimizer = find_optimizer(request.settings.optimizer_type)
    packages = [optimizer.package] if optimizer else []
    if request.settings.network_module == LYCORIS:
        packages.append("lycoris")
    packages = [each for each in packages if each not in ("torch", "transformers", "bitsandbytes")]
    return tuple(missing_modules(python, packages)) if packages else ()


def judge_optimizer(request: Request, options: TrainOptions, python: Path) -> tuple[Problem, ...]:
    """Problems that the optimizer itself reports of decided `options`.

    It is tried where the table does not cover it: it is not there, or the user set arguments.
    """
    name = options.optimizer_type
    if find_optimizer(name) and "optimizer_args" not in request.set_at:
        return ()
    rates = [] if options.network_train_text_encoder_only else [options.unet_lr]
    rates += [] if options.network_train_unet_only else options.text_encoder_lr
    arguments = keyword_arguments(options.optimizer_args)
    if arguments.get("relative_step") is True:
        return ()  # takes no rates
    given = [each for each in rates if each]
    return try_optimizer(python, name, arguments, given) if given else ()


def judge_plan(request: Request, plan: Plan) -> tuple[Problem, ...]:
    """Problems of the decided values by the rules."""
    return judge_options(
        request,
        plan.options.by_name(),
        trainer=plan.engine,
        family=plan.base.family,
        predicts_v=plan.base.prediction == "v_prediction",
    )


def judge_options(
    request: Request,
    options: Mapping[str, object],
    *,
    trainer: EngineName,
    family: Family | None,
    predicts_v: bool | None,
) -> tuple[Problem, ...]:
    """Problems of decided `options` by the rules. `family` and `predicts_v` are None where the base
    is not known."""
    view = _view(request)
    return judge(
        replace(
            view,
            values={**view.values, **options},
            knows="plan",
            trainer=trainer,
            family=family,
            base_predicts_v=predicts_v,
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
        engine = choose_engine(settings, environ, tiny=tiny, other_noise=noise, family=family)
        return judge_request(request, trainer=engine.name, family=family, python=engine.python)
    except SettingsError as error:
        return error.problems
    except MachineError:
        return ()


def raise_errors(problems: tuple[Problem, ...]) -> None:
    """Raises SettingsError with all errors among `problems`."""
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))


def _view(request: Request) -> View:
    return view_of(
        request.settings,
        request.set_at,
        has_regularisation_folders=any(each.is_reg for each in request.subsets),
    )

"""Extends a finished run to more steps, from its last state.

Only the length may differ. The images of a step, the warm-up and all else that the weights depend
on stay as they were; the learning rate follows its schedule over the new length.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tenner.core.errors import SettingsError
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.weights import ema_path
from tenner.engines.sd_scripts.schedules import schedule_of
from tenner.planning.length import run_length
from tenner.planning.plan import Plan
from tenner.runs.ledger import Ledger
from tenner.settings.model import Settings
from tenner.supervision.states import states

LENGTH = frozenset(("max_train_epochs", "max_train_steps"))
"""Settings that may differ between a run and its extension."""


def longer(plan: Plan, ledger: Ledger, settings: Settings) -> int | None:
    """The steps of the longer run that the settings request; None where it is not longer.

    `plan` has the steps of an epoch as at the run's beginning, `ledger` its length.
    """
    before = ledger.decided.get("max_train_steps", 0)
    as_set = (settings.max_train_epochs, settings.max_train_steps)
    was = ledger.job.get("max_train_epochs"), ledger.job.get("max_train_steps")
    if not before or as_set in ((was[0], None), (None, was[1])):
        return None
    per_epoch = plan.length.steps_per_epoch
    steps = run_length(settings, per_epoch * settings.num_processes, 1).num_steps
    return steps if steps > before else None


def as_longer(ledger: Ledger, job: Mapping[str, Any], plan: Plan) -> Ledger:
    """The ledger of the longer run `job` by `plan`, in which the earlier result is a checkpoint.

    `ledger` itself where that is another job, or not longer.
    """
    before, num_steps = ledger.decided.get("max_train_steps", 0), plan.length.num_steps
    differing = {key for key in {*ledger.job, *job} if ledger.job.get(key) != job.get(key)}
    if not before or num_steps <= before or not differing or differing - LENGTH:
        return ledger
    found = replace(
        ledger,
        job=job,
        decided={**ledger.decided, "max_train_steps": num_steps},
        finished=None,
        delivered_to=(),
    )
    if ledger.finished is None:
        return found
    return found.with_checkpoint(replace(ledger.finished.file, name=_name_at_step(ledger)))


def retain_delivered(ledger: Ledger, run_dir: RunDir) -> int:
    """Copy the result of the shorter run to the name of its step, and remove the stop file.

    Returns the step of the state to resume from. Raises SettingsError where there is no state, and
    OSError.
    """
    if ledger.finished is None:
        return ledger.state_step
    file = ledger.finished.file
    final = run_dir.checkpoints / file.name
    if not states(run_dir):
        where = (
            str(final)
            if final.is_file()
            else msg(
                "{name} from {delivered_to}", name=file.name, delivered_to=ledger.delivered_to[0]
            )
        )
        raise SettingsError(
            msg(
                "the run {output_name} ended after {step} steps and its last state no"
                " longer exists: it cannot be extended",
                output_name=ledger.output_name,
                step=file.step,
            ),
            fix=msg(
                "choose another output_name and set network_weights to {where}: it starts"
                " from the finished LoRA, with a new optimizer",
                where=where,
            ),
        )
    earlier = run_dir.checkpoints / _name_at_step(ledger)
    for file, copy in ((final, earlier), (ema_path(final), ema_path(earlier))):
        if file.is_file():
            shutil.copyfile(file, copy)
    run_dir.stop_file.unlink(missing_ok=True)
    return int(states(run_dir)[0].name.rpartition("-")[2])


def _name_at_step(ledger: Ledger) -> str:
    assert ledger.finished is not None
    return f"{ledger.output_name}-step{ledger.finished.file.step:08d}.safetensors"


def extension_text(ledger: Ledger, plan: Plan) -> str:
    """The message of an extension: both lengths, and how the schedule continues."""
    before, now = ledger.decided["max_train_steps"], plan.length.num_steps
    at = ledger.finished.file.step if ledger.finished else ledger.state_step
    text = msg(
        "the run is extended from {before} to {now} steps and resumes after step {at}",
        before=before,
        now=now,
        at=at,
    )
    old = schedule_of(plan.options, num_steps=before)
    new = schedule_of(plan.options, num_steps=now)
    if old is None or new is None:
        return msg("{text}; the schedule is the optimizer's own and continues", text=text)
    if new.is_free_of_length:
        return msg("{text}; the learning rate continues as it was", text=text)
    ended, resumed = 100 * old.factor(min(at, before - 1)), 100 * new.factor(at)
    return msg(
        "{text}; {name} is stretched over the new length: the learning rate was at"
        " {ended} % of its full value and resumes at {resumed} %",
        text=text,
        name=new.name,
        ended=f"{ended:.0f}",
        resumed=f"{resumed:.0f}",
    )

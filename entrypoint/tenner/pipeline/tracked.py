"""A run as trackers are shown it: its name, its settings, and the process that writes to them."""

import hashlib

from tenner.engines.trackers import TrackedRun, tracker_command
from tenner.runs.attempt import Attempt
from tenner.settings.published import published
from tenner.supervision.tracking import LAST_SECONDS, Tracking


def tracking(attempt: Attempt) -> Tracking:
    """The trackers of a run, to be used as a context around its training. All attempts of a run,
    on whatever machine, are one run there."""
    context, settings = attempt.context, attempt.prepared.settings
    names = tuple(name for name in settings.log_with if name != "tensorboard")
    first = attempt.book.now.attempts[0].started
    run_id = hashlib.sha256(f"{settings.output_name} {first}".encode()).hexdigest()[:12]
    facts = {
        key: value if isinstance(value, bool | int | float) else str(value)
        for key, value in _decided(attempt).items()
    }
    run = TrackedRun(
        names=names,
        project=settings.log_tracker_name,
        run_name=settings.output_name,
        run_id=run_id,
        folder=attempt.run_dir.path / "logs",
        facts={
            key: context.secrets.redact(v) if isinstance(v, str) else v for key, v in facts.items()
        },
    )
    command = tracker_command(
        attempt.prepared.engine.python, names, context.environ, context.child_environ
    )
    return Tracking(
        run,
        command,
        secrets=context.secrets,
        on_event=context.emit,
        seconds_left=lambda: (
            LAST_SECONDS
            if context.stop.signal is None
            else context.stop.seconds_left(context.grace_seconds) / 2
        ),
    )


def _decided(attempt: Attempt) -> dict[str, object]:
    """Settings without secrets and local paths, with the values that the plan decided."""
    values = published(attempt.prepared.settings).model_dump()
    decided = attempt.plan.options.by_name()
    shown = {key: decided.get(key, value) for key, value in values.items()}
    shown |= {"engine": attempt.plan.engine, "num_images": len(attempt.prepared.dataset.images)}
    left_out = ("vae", "network_weights", "engine_options")  # paths as the plan has them
    found = {key: value for key, value in shown.items() if key not in left_out}
    return {key: value for key, value in found.items() if value not in (None, "", ())}

"""Experiment trackers beside the report: which there are, and the process that writes to them.

The process runs in the trainer's Python and uses accelerate's trackers, whatever trains: neither
trainer waits for a tracker, and none of what a tracker does can end a training.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenner.core.command import Command
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.secrets import Secrets, secrets_from
from tenner.engines.native.engine import command as module_command
from tenner.settings.model import Settings

MODULE = "tenner.engines.tracker_child"


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """A tracker by its name in accelerate: the package to install, the start of the names of its
    environment variables, and those of them without which nothing is sent."""

    package: str
    prefixes: tuple[str, ...]
    key: str = ""
    not_needed_with: tuple[tuple[str, str], ...] = ()


TRACKERS: Mapping[str, Tracker] = {
    "wandb": Tracker(
        package="wandb",
        prefixes=("WANDB_",),
        key="WANDB_API_KEY",
        not_needed_with=(("WANDB_MODE", "offline"), ("WANDB_MODE", "disabled")),
    ),
    "comet_ml": Tracker(package="comet-ml", prefixes=("COMET_",), key="COMET_API_KEY"),
    "mlflow": Tracker(
        package="mlflow", prefixes=("MLFLOW_", "DATABRICKS_"), key="MLFLOW_TRACKING_URI"
    ),
    "aim": Tracker(package="aim", prefixes=("AIM_",)),
    "clearml": Tracker(package="clearml", prefixes=("CLEARML_",), key="CLEARML_API_ACCESS_KEY"),
    "dvclive": Tracker(package="dvclive", prefixes=("DVC_", "DVCLIVE_")),
    "swanlab": Tracker(
        package="swanlab",
        prefixes=("SWANLAB_",),
        key="SWANLAB_API_KEY",
        not_needed_with=(("SWANLAB_MODE", "local"), ("SWANLAB_MODE", "offline")),
    ),
    "trackio": Tracker(package="trackio", prefixes=("TRACKIO_", "HF_TOKEN")),
}
"""What accelerate 1.6 and later have classes for; TensorBoard's log is always written."""

_QUIET: Mapping[str, str] = {
    # On a CPU: the cards are the trainer's.
    "CUDA_VISIBLE_DEVICES": "",
    "ACCELERATE_USE_CPU": "true",
    # No copy of this program's source or output goes anywhere.
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_ERROR_REPORTING": "false",
}


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as a tracker shows it. `run_id` is the same for all attempts of a run; `facts` are its
    settings, without paths of this machine."""

    names: tuple[str, ...]
    project: str
    run_name: str
    run_id: str
    folder: Path
    facts: Mapping[str, str | int | float | bool]

    def to_json(self) -> str:
        """The first line that the process reads."""
        described = {
            "trackers": [{"name": name, "package": TRACKERS[name].package} for name in self.names],
            "project": self.project,
            "run_name": self.run_name,
            "run_id": self.run_id,
            "folder": str(self.folder.absolute()),
            "facts": dict(self.facts),
        }
        return json.dumps(described)


def tracker_command(
    python: Path, names: Sequence[str], environ: Mapping[str, str], child_environ: Mapping[str, str]
) -> Command:
    """The process for these trackers. Of `environ`'s secrets it is given those trackers' alone,
    as variables; the rest of its environment is `child_environ`."""
    prefixes = tuple(each for name in names for each in TRACKERS[name].prefixes)
    secrets, _ = secrets_from(environ)
    given = {name: value for name, value in environ.items() if name.startswith(prefixes)}
    given |= {name: value for name, value in secrets.values.items() if name.startswith(prefixes)}
    given = {name: value for name, value in given.items() if not name.endswith("_FILE")}
    started = module_command(Path("-"), python, module=MODULE)
    network = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    quiet = {key: value for key, value in _QUIET.items() if key not in given}
    return Command(
        argv=started.argv, env={**child_environ, **started.env, **network, **quiet, **given}
    )


def tracker_problems(
    settings: Settings, secrets: Secrets, environ: Mapping[str, str]
) -> tuple[Problem, ...]:
    """Trackers whose key is not in the environment: a warning, as a run does without them."""
    found: list[Problem] = []
    for name in settings.log_with:
        tracker = TRACKERS.get(name)
        if tracker is None or not tracker.key:
            continue
        known = secrets.get(tracker.key) or environ.get(tracker.key)
        if known or any(environ.get(key) == value for key, value in tracker.not_needed_with):
            continue
        text = msg("log_with = {name}: {key} is not set", name=name, key=tracker.key)
        fix = msg("set the variable {key}, or remove log_with", key=tracker.key)
        found.append(Problem(text=text, fix=fix, level="warning"))
    return tuple(found)

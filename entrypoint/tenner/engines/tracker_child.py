"""The trackers' process: what it reads of a run on stdin goes to accelerate's trackers.

The first line describes the run (`TrackedRun.to_json`), each further one holds `step` and `values`;
the end of the input ends the run there. Answers are JSON lines on stdout: the address under which
a tracker shows the run, or why one is not written to any more.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

_LONGEST = 500


def main() -> int:
    answers = sys.stdout
    sys.stdout = sys.stderr
    described: dict[str, Any] = json.loads(sys.stdin.readline())
    folder = Path(described["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # some trackers write beside where they are started
    os.environ.setdefault("WANDB_DIR", str(folder))
    open_trackers = _started(described, answers)
    for line in sys.stdin:
        entry = json.loads(line)
        for name, accelerator in list(open_trackers.items()):
            try:
                accelerator.log(entry["values"], step=entry["step"])
            except Exception as error:  # noqa: BLE001  any tracker's, any library's
                _answer(answers, name, problem=_reason(error))
                del open_trackers[name]
    for name, accelerator in open_trackers.items():
        try:
            accelerator.end_training()
            _answer(answers, name, ended=_where(accelerator))
        except Exception as error:  # noqa: BLE001
            _answer(answers, name, problem=_reason(error))
    return 0


def _started(described: dict[str, Any], answers: TextIO) -> dict[str, Any]:
    """The accelerator of each tracker that could be started, by the tracker's name."""
    from accelerate import Accelerator
    from accelerate.tracking import get_available_trackers

    trackers: list[Any] = get_available_trackers()
    available = {str(each) for each in trackers}
    found: dict[str, Any] = {}
    for each in described["trackers"]:
        name = each["name"]
        if name not in available:
            _answer(answers, name, missing=each["package"])
            continue
        try:
            accelerator = Accelerator(cpu=True, log_with=name, project_dir=described["folder"])
            accelerator.init_trackers(
                described["project"],
                config=described["facts"],
                init_kwargs={name: _arguments(name, described)},
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001
            _answer(answers, name, problem=_reason(error))
            continue
        found[name] = accelerator
        _answer(answers, name, address=_address(accelerator))
    return found


def _arguments(name: str, described: dict[str, Any]) -> dict[str, Any]:
    """The run's name, by the arguments of the tracker's own `init`."""
    run_name = described["run_name"]
    match name:
        case "wandb":
            return {"name": run_name, "id": described["run_id"], "resume": "allow"}
        case "mlflow":
            return {"run_name": run_name}
        case "swanlab":
            return {"experiment_name": run_name}
        case "trackio":
            return {"name": run_name, "resume": "allow"}
        case _:
            return {}


def _address(accelerator: Any) -> str:
    """The address that shows the run, empty where the tracker gives none."""
    with contextlib.suppress(Exception):
        return str(getattr(accelerator.trackers[0].tracker, "url", "") or "")
    return ""


def _where(accelerator: Any) -> str:
    """The folder of a wandb run that is still to be sent (offline), else nothing."""
    with contextlib.suppress(Exception):
        run = accelerator.trackers[0].tracker
        if accelerator.trackers[0].name == "wandb" and run.settings.mode == "offline":
            return str(Path(run.dir).parent)
    return ""


def _reason(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"[:_LONGEST] if first else type(error).__name__


def _answer(answers: TextIO, name: str, **values: str) -> None:
    answers.write(json.dumps({"tracker": name, **values}) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())

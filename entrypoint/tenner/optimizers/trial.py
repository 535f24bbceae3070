"""Whether an optimizer takes its arguments: it is made over a toy tensor, in the trainer's Python.

Importing torch takes seconds, so this is for what the table cannot judge: arguments that a user
wrote, whose values only the optimizer knows to be sound, and optimizers that are not in it.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from tenner.core.command import NO_COMPILE_WORKERS
from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.secrets import without_secrets
from tenner.optimizers.table import find_optimizer

TIME_LIMIT_SECONDS = 120.0
_MODULES = {
    "torch": "torch.optim",
    "bitsandbytes": "bitsandbytes.optim",
    "transformers": "transformers.optimization",
}
_CLASSES = {
    "SGDNesterov": "torch.optim.SGD",
    "SGDNesterov8bit": "bitsandbytes.optim.SGD8bit",
    "DAdaptation": "dadaptation.experimental.DAdaptAdamPreprint",
    "DAdaptAdamPreprint": "dadaptation.experimental.DAdaptAdamPreprint",
    "DAdaptAdanIP": "dadaptation.experimental.DAdaptAdanIP",
}


def try_optimizer(
    python: Path, name: str, arguments: Mapping[str, Any], rates: Sequence[float]
) -> tuple[Problem, ...]:
    """The optimizer's own error for `arguments` and the groups' `rates`.

    Nothing where it cannot be tried: no torch or no such package here, or no answer in time.
    """
    written = tuple((key, repr(value)) for key, value in arguments.items())
    return _tried(python, name, written, tuple(rates))


@lru_cache(maxsize=64)
def _tried(
    python: Path, name: str, arguments: tuple[tuple[str, str], ...], rates: tuple[float, ...]
) -> tuple[Problem, ...]:
    known = find_optimizer(name)
    path = name
    if known:
        module = _MODULES.get(known.package, known.package)
        path = _CLASSES.get(known.name, f"{module}.{known.name}")
    module, _, kind = path.rpartition(".")
    more = {"nesterov": "True"} if name.lower().startswith("sgdnesterov") else {}
    more |= {"momentum": "0.9"} if more else {}
    order = {
        "module": module,
        "name": kind,
        "args": {**more, **dict(arguments)},
        "rates": rates,
        "steps": known is not None and known.package != "bitsandbytes",
    }
    answer = _ask(python, order)
    if not answer:
        return ()
    if answer["kind"] in ("ImportError", "ModuleNotFoundError", "OSError") and known:
        return ()  # whether its package is there is judged elsewhere
    return (
        Problem(
            text=msg(
                "optimizer_type = {name} cannot be made with these settings: {answer}",
                name=name,
                answer=answer["text"],
            ),
            fix=msg("correct optimizer_type or optimizer_args"),
        ),
    )


def _ask(python: Path, order: Mapping[str, object]) -> dict[str, str]:
    code = (resources.files("tenner.optimizers") / "trial_child.py").read_text(encoding="utf-8")
    try:
        done = subprocess.run(
            [python, "-c", code, json.dumps(order)],
            env={**NO_COMPILE_WORKERS, **without_secrets()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    last = next((line for line in reversed(done.stdout.splitlines()) if line[:1] == "{"), "{}")
    try:
        return json.loads(last)
    except ValueError:
        return {}

"""The Ray task: one job in a process of its own, on the node and the cards that it was given."""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tenner.core.errors import ExitCode
from tenner.core.temporary_files import temporary_folder
from tenner.queue.cluster.order import LOST, Order, Result


def do_job(order: Order) -> Result:
    """Do one job in a process of its own, on the cards that Ray chose.

    The order goes through a pipe that stays open: it closes with this process, however it ends.
    """
    with temporary_folder("job") as folder:
        result = Path(folder) / "result.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "tenner.queue.cluster.job", str(result)], stdin=subprocess.PIPE
        )
        assert process.stdin is not None
        try:
            process.stdin.write(pickle.dumps(order))
            process.stdin.flush()
            while process.poll() is None:  # in short waits: cancellation is noticed between two
                time.sleep(0.2)
        finally:
            process.stdin.close()  # by which it saves and ends, where it has not
            code = process.wait()
        return _result(result, code)


def _result(path: Path, code: int) -> Result:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found.update({key: tuple(found[key]) for key in ("problems", "destinations")})
        return Result(**found)
    except (OSError, ValueError, KeyError, TypeError):
        text = "its process ended with signal " + str(-code) if code < 0 else f"code {code}"
        exit_code = LOST if code == LOST else ExitCode.MACHINE
        return Result(state="failed", exit_code=exit_code, problems=(text,))

"""All runs of the bench, one after another."""

import contextlib
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from servers.fault_proxy import fault_proxy
from servers.s3_servers import moto_server
from small_disk import small_disk

from bench.chaos.environment import Environment
from bench.chaos.history import TROUBLES, History, read_histories
from bench.chaos.trial import Trial


def chaos(
    runs: int,
    kills: int,
    seed: int,
    *,
    stand_in: bool,
    progress: Path | None = None,
    seconds: float = float("inf"),
) -> list[History]:
    """Make `runs` runs and return all histories, which are printed as they end.

    Those in the file `progress` are not made again.
    """
    histories = read_histories(progress) if progress else {}
    missing = [number for number in range(runs) if number not in histories]
    deadline = time.monotonic() + seconds
    if not missing:
        return list(histories.values())
    with (
        TemporaryDirectory(prefix="tenner-chaos-") as folder,
        moto_server(Path(folder)) as server_port,
        fault_proxy(server_port) as proxy,
    ):
        environment = Environment(Path(folder), proxy, server_port, stand_in=stand_in)
        for number in missing:
            if time.monotonic() > deadline:
                break
            histories[number] = _run(environment, number, kills, random.Random(f"{seed}/{number}"))
            print(f"run {number}: {histories[number]}", flush=True)
            if progress:
                with progress.open("a") as file:
                    file.write(json.dumps({"run": number, **asdict(histories[number])}) + "\n")
    return list(histories.values())


def _run(environment: Environment, number: int, kills: int, rng: random.Random) -> History:
    """One run from its first start to its delivery."""
    history = History(trouble=TROUBLES[number % len(TROUBLES)])
    folder = environment.folder / f"run-{number}"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        if history.trouble == "full disk":
            stack.enter_context(small_disk(folder / "disk", 300))
        return Trial(environment, number, history, folder, rng).run(kills)

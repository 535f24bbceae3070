"""The process that does one job on a node: `python -m tenner.queue.cluster.job RESULT`, order on
stdin.

It waits for the run's lease at its destination, runs the pipeline, and writes the result. Keys come
through the pipe, so that no environment, command line or log of the cluster holds them. When stdin
closes, the driver is gone: the run saves, delivers what it has and ends. When the lease is lost,
everything ends at once and nothing is sent any more.
"""

import os
import pickle
import signal
import socket
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

from tenner.core.errors import BudgetReached, ExitCode, Stopped, TennerError
from tenner.core.files import write_json
from tenner.core.run_dir import RunDir
from tenner.core.secrets import secrets_from, without_secrets
from tenner.pipeline.preflight import prepare
from tenner.pipeline.run import AlreadyDelivered, run
from tenner.queue.cluster.order import LOST, Order, Result, kill_all_below
from tenner.queue.lease import Lease, LeaseLost
from tenner.queue.record import JobState
from tenner.queue.shared import last_loss, problems_of
from tenner.runs.handover import default_destination
from tenner.runs.ledger import ledger_of
from tenner.runs.remote_run import RemoteRun
from tenner.runs.session import Session
from tenner.settings import Request
from tenner.storage.destination import Destination
from tenner.storage.destination_address import parse_destinations
from tenner.ui.screen import make_screen

_NODE_OUTPUT = "TENNER_OUTPUT_DIR"
"""The folder of runs on this node, whatever the job's own setting."""


def main(words: list[str]) -> int:
    """Returns the job's exit code."""
    order: Order = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    result = do(order)
    write_json(Path(words[0]), asdict(result))
    return result.exit_code


def do(order: Order) -> Result:
    """Wait for the run's lease and run it."""
    environ = {**without_secrets(os.environ), **order.environ}
    request = _here(order.request)
    settings = request.settings
    run_dir = settings.run_dir
    secrets, _ = secrets_from(environ)
    destinations, _ = parse_destinations(settings.destinations)
    destination = _first_that_leases(destinations) or default_destination(run_dir)
    remote = RemoteRun(destination, settings.output_name, secrets, environ)
    lease = Lease(remote=remote, on_lost=_stop_everything, seconds=order.lease_seconds)
    screen = make_screen(price_per_hour=settings.price_per_hour)
    result = Result(state="delivered", exit_code=ExitCode.DELIVERED, node=socket.gethostname())
    try:
        with lease:
            lease.take(screen.say)
            outcome = run(
                request,
                environ,
                screen,
                session=Session(prepare=prepare, fence=lease.check, ends_machine=False),
            )
            if isinstance(outcome, AlreadyDelivered):
                where = outcome.delivered_to
            else:
                where = tuple(each.destination for each in outcome.delivered.at)
            result = replace(result, destinations=where)
    except LeaseLost as error:
        _stop_everything(str(error))
    except TennerError as error:
        result = replace(
            result,
            state=_state_of(error),
            exit_code=int(error.exit_code),
            problems=tuple(secrets.redact(each) for each in problems_of(error)),
        )
        for problem in result.problems:
            screen.say(problem)
    return _with_figures(replace(result, generation=lease.generation), run_dir)


def _here(request: Request) -> Request:
    """The request with this node's own folder of runs."""
    folder = os.environ.get(_NODE_OUTPUT)
    if not folder:
        return request
    return replace(request, settings=request.settings.model_copy(update={"output_dir": folder}))


def _first_that_leases(destinations: tuple[Destination, ...]) -> Destination | None:
    """The destination that holds the lease: a Hub repo or a remote of rclone cannot decide which
    machine was first."""
    leasing = (each for each in destinations if each.kind not in ("hub", "rclone"))
    return next(leasing, None) or next(iter(destinations), None)


def _with_figures(result: Result, run_dir: RunDir) -> Result:
    """The result with the figures of all attempts in the run's ledger and events."""
    loss, step = last_loss(run_dir.events)
    ledger = ledger_of(run_dir)
    if ledger is None:
        return replace(result, loss=loss, steps=step)
    priced = any(attempt.cost_usd is not None for attempt in ledger.attempts)
    return replace(
        result,
        loss=loss,
        steps=max(step, ledger.step),
        seconds=ledger.paid_seconds,
        cost_usd=ledger.cost_usd if priced else None,
    )


def _state_of(error: TennerError) -> JobState:
    match error:
        case BudgetReached():
            return "budget"
        case Stopped():
            return "stopped"
        case _:
            return "failed"


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _stop_everything(why: str) -> None:
    print(f"this run's lease is lost: {why}", file=sys.stderr, flush=True)
    kill_all_below(os.getpid())
    os._exit(LOST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Hands the jobs of a batch to a Ray cluster, or to all cards of this machine.

One job holds one card (`num_processes` of them where it asks for more). Jobs are handed out as
cards become free, so that a budget or a number of failures ends a batch in time. A job whose node
is lost is started elsewhere by Ray; the lease at its destination keeps the two apart.
"""

import importlib
import json
import math
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tenner.batch.jobs import Batch
from tenner.batch.queue import tell, within
from tenner.batch.record import JobRecord, new_record, read_records, write_records
from tenner.batch.summary import write_summary
from tenner.cluster.order import LOST, Order, Result, travelling
from tenner.delivery.lease import LEASE_SECONDS
from tenner.errors import ExitCode, MachineError, Problem, SettingsError, Stopped
from tenner.run_dir import RunDir
from tenner.run_lock import lock_run
from tenner.screen import Screen
from tenner.settings import Request
from tenner.supervise import StopRequest, stop_on_signals

LOCAL = "local"
"""In place of an address: a Ray of this machine's own, for as long as the batch takes."""
MOST_TURNS = 5
"""Times that a job is handed out again after its turn was lost where it ran."""
_GRACE_SECONDS = 15.0


def do_job(order: Order) -> Result:
    """Do one job in a process of its own, on the node and the cards that Ray chose.

    The order goes through a pipe that stays open: it closes with this process, however it ends.
    """
    with tempfile.TemporaryDirectory(prefix="tenner-job-") as folder:
        told = Path(folder) / "result.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "tenner.cluster.job", str(told)], stdin=subprocess.PIPE
        )
        assert process.stdin is not None
        try:
            process.stdin.write(pickle.dumps(order))
            process.stdin.flush()
            while process.poll() is None:  # in short waits: a call back is heard between two
                time.sleep(0.2)
        finally:
            process.stdin.close()  # by which it saves and ends, where it has not
            code = process.wait()
        return _result(told, code)


def _result(path: Path, code: int) -> Result:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found.update({key: tuple(found[key]) for key in ("problems", "destinations")})
        return Result(**found)
    except (OSError, ValueError, KeyError, TypeError):
        text = "its process ended with signal " + str(-code) if code < 0 else f"code {code}"
        return Result(state="failed", exit_code=code or 1, problems=(text,))


@dataclass(kw_only=True)
class Cluster:
    """A connection to Ray. `ray` is the library, imported only here."""

    ray: Any
    has_cards: bool

    def needs(self, request: Request) -> dict[str, float]:
        """What a job holds while it runs. Raises MachineError where there is no such thing."""
        settings = request.settings
        tiny = settings.base_model == "tiny" and not self.has_cards
        if settings.device == "cpu" or (settings.device == "auto" and tiny):
            return {"num_cpus": 1, "num_gpus": 0}
        if not self.has_cards:
            raise MachineError(
                "this Ray cluster has no GPU",
                fix="start its nodes where nvidia-smi shows cards, or with --num-gpus",
            )
        return {"num_cpus": 1, "num_gpus": settings.num_processes}

    def room_for(self, needs: Mapping[str, float]) -> int:
        """How many such jobs run side by side on the nodes that are there now."""
        have = self.ray.cluster_resources()
        fits = [have.get("CPU", 0) / needs["num_cpus"]]
        if needs["num_gpus"]:
            fits = [have.get("GPU", 0) / needs["num_gpus"]]
        return max(1, math.floor(min(fits)))

    def submit(self, order: Order, needs: Mapping[str, float]) -> Any:
        """Ray tries again, for ever, where a node or a worker process is lost."""
        task = self.ray.remote(do_job)
        name = f"tenner {order.request.settings.output_name}"
        return task.options(**needs, max_retries=-1, name=name).remote(order)


def connect(address: str) -> Cluster:
    """Raises SettingsError where Ray is not installed or does not answer."""
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise SettingsError("Ray is not installed", fix="pip install 'tenner[ray]'") from None
    known: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == LOCAL:
            ray.init(include_dashboard=False, **known)
        else:
            ray.init(address=address, **known)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(
            f"Ray at {address}: {first}", fix="check the address, or leave it out for this machine"
        ) from error
    return Cluster(ray=ray, has_cards=ray.cluster_resources().get("GPU", 0) > 0)


@dataclass(kw_only=True)
class Handout:
    """The jobs, what is known of each, and those that are out."""

    batch: Batch
    cluster: Cluster
    environ: Mapping[str, str]
    screen: Screen
    lease_seconds: float = LEASE_SECONDS
    records: dict[str, JobRecord] = field(default_factory=dict[str, JobRecord])
    out: dict[Any, Request] = field(default_factory=dict[Any, Request])
    turns: dict[str, int] = field(default_factory=dict[str, int])
    failures: int = 0

    def take_stock(self) -> list[Request]:
        """The jobs that are left, by what earlier starts wrote down."""
        before = read_records(self.batch.folder / "batch.json")
        left: list[Request] = []
        for job in self.batch.jobs:
            settings = job.settings
            run = Path(settings.output_dir).expanduser() / settings.output_name
            fresh = new_record(job, run)
            known = before.get(fresh.name)
            if known and known.digest == fresh.digest and known.state == "delivered":
                self.records[fresh.name] = known
                continue
            self.records[fresh.name] = fresh
            left.append(job)
        self.write()
        return left

    def run(self, left: list[Request], stop: StopRequest) -> None:
        """Hand out and take back until nothing is left. Raises Stopped."""
        most = self.batch.options.stop_after
        while left or self.out:
            if stop.signal is not None:
                self._call_back()
                raise Stopped("stopped by a signal", fix="start the same batch again: it goes on")
            while left and self._has_room(left[0]):
                if most is not None and self.failures >= most:
                    self.screen.say(f"{self.failures} jobs failed: no further one is started")
                    left.clear()
                    break
                self._hand_out(left.pop(0))
            if not self.out:
                continue
            ready, _ = self.cluster.ray.wait(list(self.out), num_returns=1, timeout=0.5)
            left += [again for each in ready if (again := self._take_back(each)) is not None]

    def _has_room(self, job: Request) -> bool:
        return len(self.out) < self.cluster.room_for(self.cluster.needs(job))

    def _hand_out(self, job: Request) -> None:
        name = job.settings.output_name
        allowed = within(job, self.batch.options, list(self.records.values()))
        if allowed is None:
            text = "nothing is left of the budget of all jobs"
            self._note(name, state="budget", exit_code=ExitCode.BUDGET, problems=(text,))
            return
        order = Order(
            request=allowed, lease_seconds=self.lease_seconds, environ=travelling(self.environ)
        )
        self.out[self.cluster.submit(order, self.cluster.needs(job))] = job
        self._note(name, state="training")
        self.screen.say(f"{name}: handed out")

    def _take_back(self, ref: Any) -> Request | None:
        """Note what became of a job. Gives it again where its turn was lost."""
        job = self.out.pop(ref)
        name = job.settings.output_name
        try:
            result: Result = self.cluster.ray.get(ref)
        except Exception as error:  # noqa: BLE001 - whatever Ray says of a task that cannot be done
            first = str(error).splitlines()[0]
            result = Result(state="failed", exit_code=ExitCode.MACHINE, problems=(first,))
        if result.exit_code == LOST and self.turns.get(name, 0) < MOST_TURNS:
            self.turns[name] = self.turns.get(name, 0) + 1
            self.screen.say(f"{name}: its turn was lost where it ran; handed out again")
            self._note(name, state="waiting")
            return job
        self.failures += result.state == "failed"
        self._note(
            name,
            state=result.state,
            exit_code=result.exit_code,
            problems=result.problems,
            seconds=result.seconds,
            cost_usd=result.cost_usd,
            steps=result.steps,
            loss=result.loss,
            destinations=result.destinations,
            node=result.node,
        )
        self.screen.say(f"{name}: {result.state} on {result.node or 'a node'}")
        return None

    def _note(self, name: str, **changed: Any) -> None:
        self.records[name] = replace(self.records[name], **changed)
        self.write()

    def _call_back(self) -> None:
        """Have every job that is out save and end; what they saved is at their destinations."""
        for ref in self.out:
            self.cluster.ray.cancel(ref, force=False)
        until = time.monotonic() + _GRACE_SECONDS
        self.cluster.ray.wait(
            list(self.out), num_returns=len(self.out), timeout=until - time.monotonic()
        )
        for job in self.out.values():
            self._note(job.settings.output_name, state="stopped", exit_code=ExitCode.STOPPED)

    def write(self) -> None:
        """Bring `batch.json` and `batch.html` up to date. Raises OSError."""
        folder = self.batch.folder
        names = [job.settings.output_name for job in self.batch.jobs]
        listed = [self.records[name] for name in names if name in self.records]
        write_records(folder / "batch.json", listed)
        write_summary(folder / "batch.html", self.batch.name, listed)


def run_on_ray(
    batch: Batch,
    address: str,
    environ: Mapping[str, str],
    make_screen: Callable[[Request], Screen],
    *,
    lease_seconds: float = LEASE_SECONDS,
) -> int:
    """All jobs of the batch on a cluster. Returns the exit code.

    Raises SettingsError where the jobs cannot be done elsewhere, Stopped where a signal ended it.
    """
    problems = _homeless(batch) if address != LOCAL else []
    if batch.options.shortest_first:
        text = "shortest_first looks at every dataset first, which may lie with the nodes alone"
        problems.append(Problem(text=text, fix="leave it out with --ray"))
    if problems:
        raise SettingsError(problems=problems)
    batch = replace(batch, jobs=tuple(map(_absolute, batch.jobs)))
    batch.folder.mkdir(parents=True, exist_ok=True)
    screen = make_screen(batch.jobs[0])
    with lock_run(RunDir(batch.folder)), stop_on_signals() as stop:
        cluster = connect(address)
        try:
            handout = Handout(
                batch=batch,
                cluster=cluster,
                environ=environ,
                screen=screen,
                lease_seconds=lease_seconds,
            )
            for job in batch.jobs:
                cluster.needs(job)
            handout.run(handout.take_stock(), stop)
        finally:
            cluster.ray.shutdown()
    listed = [handout.records[job.settings.output_name] for job in batch.jobs]
    tell(screen, listed, batch.folder)
    codes = [each.exit_code for each in listed if each.exit_code]
    waits = any(each.state == "waiting" for each in listed)
    return codes[0] if codes else (ExitCode.STOPPED if waits else ExitCode.DELIVERED)


def _homeless(batch: Batch) -> list[Problem]:
    """Jobs whose result would stay on a node that goes away."""
    return [
        Problem(
            text=f"{job.settings.output_name} has no destination that every node reaches",
            fix="set destinations for all jobs: s3://bucket/prefix, or a shared folder",
        )
        for job in batch.jobs
        if not any(not each.startswith("hf://") for each in job.settings.destinations)
    ]


def _absolute(job: Request) -> Request:
    """A node's working directory is another one."""
    output_dir = str(Path(job.settings.output_dir).expanduser().absolute())
    return replace(job, settings=job.settings.model_copy(update={"output_dir": output_dir}))

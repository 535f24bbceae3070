"""Runs the jobs of a batch on a Ray cluster, or on all cards of this machine.

One job takes one card (`num_processes` of them where it is set). Jobs are submitted as cards become
free, so that a budget or a number of failures ends a batch in time. A job whose node is lost is
submitted again, without waiting for Ray's own retry: a node that is cut off closes no connection,
and Ray's callers may wait minutes for it. The lease at its destination stops the first of the two.
"""

import contextlib
import importlib
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tenner.core.errors import ExitCode, MachineError, Problem, SettingsError, Stopped
from tenner.core.messages import msg
from tenner.core.run_dir import RunDir
from tenner.core.writable import make_writable
from tenner.queue.cluster.order import LOST, Order, Result, travelling
from tenner.queue.cluster.task import do_job
from tenner.queue.jobs import Batch
from tenner.queue.lease import LEASE_SECONDS
from tenner.queue.queue import show_records, within
from tenner.queue.record import JobRecord, new_record, read_records, write_records
from tenner.queue.summary import write_summary
from tenner.runs.run_lock import lock_run
from tenner.serve.batch_dir import RECORDS, SUMMARY
from tenner.settings import Request
from tenner.supervision.supervise import StopRequest, stop_on_signals
from tenner.ui.screen import Screen

LOCAL = "local"
"""Instead of an address: Ray started on this machine alone, for as long as the batch takes."""
MOST_STARTS = 20
"""Most starts of a job, so that one which brings down every node that it runs on ends."""
_GRACE_SECONDS = 15.0


@dataclass(kw_only=True)
class Cluster:
    """A connection to Ray. `ray` is the library, imported only here."""

    ray: Any
    has_cards: bool

    def needs(self, request: Request) -> dict[str, float]:
        """The resources that a job holds while it runs. Raises MachineError where the cluster has
        no such node."""
        settings = request.settings
        tiny = settings.base_model == "tiny" and not self.has_cards
        if settings.device == "cpu" or (settings.device == "auto" and tiny):
            return {"num_cpus": 1, "num_gpus": 0}
        if not self.has_cards:
            raise MachineError(
                msg("this Ray cluster has no GPU"),
                fix=msg("start its nodes where nvidia-smi shows cards, or with --num-gpus"),
            )
        return {"num_cpus": 1, "num_gpus": settings.num_processes}

    def free_node(self, needs: Mapping[str, float], taken: Counter[str]) -> str | None:
        """The node with the most free slots for such a job, less those `taken`; None where none has
        any."""
        kind = "GPU" if needs["num_gpus"] else "CPU"
        each = needs["num_gpus"] or needs["num_cpus"]
        resources = {
            node["NodeID"]: math.floor(node["Resources"].get(kind, 0) / each)
            - taken[node["NodeID"]]
            for node in self.ray.nodes()
            if node["Alive"]
        }
        best = max(resources, key=lambda node: resources[node], default=None)
        return best if best is not None and resources[best] > 0 else None

    def is_alive(self, node: str) -> bool:
        return any(each["Alive"] for each in self.ray.nodes() if each["NodeID"] == node)

    def request(self, needs: Sequence[Mapping[str, float]]) -> None:
        """Report to an autoscaling cluster which resources would be used at once."""
        bundles = [{"CPU": each["num_cpus"], "GPU": each["num_gpus"]} for each in needs]
        bundles = [{kind: count for kind, count in each.items() if count} for each in bundles]
        importlib.import_module("ray.autoscaler.sdk").request_resources(bundles=bundles)

    def submit(self, order: Order, node: str, needs: Mapping[str, float]) -> Any:
        """Submit the order to the node. Only this program retries what is lost with it, not Ray."""
        strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
        there = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        name = f"tenner {order.request.settings.output_name}"
        task = self.ray.remote(do_job)
        known: dict[str, Any] = {"max_retries": 0, "name": name, "scheduling_strategy": there}
        return task.options(**needs, **known).remote(order)

    def cancel(self, ref: Any) -> None:
        """Cancel a task without waiting for it."""
        self.ray.cancel(ref, force=True)


@contextlib.contextmanager
def connected(address: str) -> Generator[Cluster]:
    """The cluster, as long as the context lasts. Raises SettingsError."""
    cluster = connect(address)
    try:
        yield cluster
    finally:
        cluster.request([])
        cluster.ray.shutdown()


def connect(address: str) -> Cluster:
    """Raises SettingsError where Ray is not installed or does not answer."""
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise SettingsError(
            msg("Ray is not installed"), fix=msg("pip install 'tenner[ray]'")
        ) from None
    known: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == LOCAL:
            ray.init(include_dashboard=False, **known)
        else:
            ray.init(address=address, **known)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(
            msg("Ray at {address}: {first}", address=address, first=first),
            fix=msg("check the address, or leave it out for this machine"),
        ) from error
    return Cluster(ray=ray, has_cards=ray.cluster_resources().get("GPU", 0) > 0)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A submitted job, and its node."""

    job: Request
    node: str


@dataclass(kw_only=True)
class Scheduler:
    """The jobs, the record of each, and those that are `submitted`, by Ray's references."""

    batch: Batch
    cluster: Cluster
    environ: Mapping[str, str]
    screen: Screen
    lease_seconds: float = LEASE_SECONDS
    records: dict[str, JobRecord] = field(default_factory=dict[str, JobRecord])
    submitted: dict[Any, Running] = field(default_factory=dict[Any, "Running"])
    starts: dict[str, int] = field(default_factory=dict[str, int])
    failures: int = 0

    def load_records(self) -> list[Request]:
        """The jobs that are left, by the records of earlier starts."""
        before = read_records(self.batch.folder / RECORDS)
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
        """Submit and collect until nothing is left. Raises Stopped."""
        most = self.batch.options.stop_after
        while left or self.submitted:
            if stop.signal is not None:
                self._stop_jobs()
                raise Stopped(
                    msg("stopped by a signal"), fix=msg("start the same batch again: it resumes")
                )
            while left and (node := self._free_node(left[0])) is not None:
                if most is not None and self.failures >= most:
                    self.screen.say(f"{self.failures} jobs failed: no further one is started")
                    left.clear()
                    break
                self._submit(left.pop(0), node)
            if not self.submitted:
                time.sleep(1.0)  # no node is there now
                continue
            left[:0] = self._collect_lost()
            left[:0] = self._collect_ended()

    def _free_node(self, job: Request) -> str | None:
        taken = Counter(each.node for each in self.submitted.values())
        return self.cluster.free_node(self.cluster.needs(job), taken)

    def _submit(self, job: Request, node: str) -> None:
        """Submit the job to a node; one for which no money or time is left is recorded as over its
        budget."""
        name = job.settings.output_name
        allowed = within(job, self.batch.options, list(self.records.values()))
        if allowed is None:
            text = msg("nothing is left of the budget of all jobs")
            self._note(name, state="budget", exit_code=ExitCode.BUDGET, problems=(text,))
            return
        order = Order(
            request=allowed, lease_seconds=self.lease_seconds, environ=travelling(self.environ)
        )
        self.starts[name] = self.starts.get(name, 0) + 1
        ref = self.cluster.submit(order, node, self.cluster.needs(job))
        self.submitted[ref] = Running(job=job, node=node)
        self._note(name, state="training")
        self.screen.say(f"{name}: submitted")

    def _collect(self, ref: Any) -> Request | None:
        """Record how a job ended. Returns the job where its lease was lost and it is to be
        retried."""
        job = self.submitted.pop(ref).job
        name = job.settings.output_name
        try:
            result: Result = self.cluster.ray.get(ref)
        except Exception as error:  # noqa: BLE001 - whatever Ray raises for a task that failed
            first = str(error).splitlines()[0]
            result = Result(state="failed", exit_code=LOST, problems=(first,))
        if result.exit_code == LOST and self._retries(
            name, msg("its machine or its lease was lost")
        ):
            return job
        self.failures += result.state == "failed"
        self._note(
            name,
            state=result.state,
            exit_code=ExitCode.MACHINE if result.exit_code == LOST else result.exit_code,
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

    def _collect_ended(self) -> list[Request]:
        """Wait a second for jobs that end. Returns those to be retried."""
        if not self.submitted:
            return []
        ready, _ = self.cluster.ray.wait(list(self.submitted), num_returns=1, timeout=1.0)
        return [again for each in ready if (again := self._collect(each)) is not None]

    def _collect_lost(self) -> list[Request]:
        """The jobs whose node is gone, to be retried."""
        again: list[Request] = []
        for ref, running in list(self.submitted.items()):
            name = running.job.settings.output_name
            if not self.cluster.is_alive(running.node) and self._retries(
                name, msg("its node is gone")
            ):
                del self.submitted[ref]
                self.cluster.cancel(ref)
                again.append(running.job)
        return again

    def _retries(self, name: str, why: str) -> bool:
        """Whether the job is to be retried; if so it is reported."""
        if self.starts[name] >= MOST_STARTS:
            return False
        self.screen.say(f"{name}: {why}; it is retried")
        self._note(name, state="waiting")
        return True

    def _note(self, name: str, **changed: Any) -> None:
        self.records[name] = replace(self.records[name], **changed)
        self.write()

    def _stop_jobs(self) -> None:
        """Have every running job save and end; what they saved is at their destinations."""
        for ref in self.submitted:
            self.cluster.ray.cancel(ref, force=False)
        until = time.monotonic() + _GRACE_SECONDS
        self.cluster.ray.wait(
            list(self.submitted), num_returns=len(self.submitted), timeout=until - time.monotonic()
        )
        for running in self.submitted.values():
            self._note(
                running.job.settings.output_name, state="stopped", exit_code=ExitCode.STOPPED
            )

    def write(self) -> None:
        """Bring `batch.json` and `batch.html` up to date. Raises OSError."""
        folder = self.batch.folder
        names = [job.settings.output_name for job in self.batch.jobs]
        listed = [self.records[name] for name in names if name in self.records]
        write_records(folder / RECORDS, listed)
        write_summary(folder / SUMMARY, self.batch.name, listed)


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
    problems = _without_shared_destination(batch) if address != LOCAL else []
    if batch.options.shortest_first:
        text = msg("shortest_first looks at every dataset first, which may be on the nodes alone")
        problems.append(Problem(text=text, fix=msg("leave it out with --ray")))
    if problems:
        raise SettingsError(problems=problems)
    batch = replace(batch, jobs=tuple(map(_absolute, batch.jobs)))
    make_writable(batch.folder, name=msg("the batch's folder"))
    screen = make_screen(batch.jobs[0])
    with lock_run(RunDir(batch.folder)), connected(address) as cluster:
        scheduler = Scheduler(
            batch=batch,
            cluster=cluster,
            environ=environ,
            screen=screen,
            lease_seconds=lease_seconds,
        )
        cluster.request([cluster.needs(job) for job in batch.jobs])
        with stop_on_signals() as stop:  # after Ray has set its own handlers
            scheduler.run(scheduler.load_records(), stop)
    listed = [scheduler.records[job.settings.output_name] for job in batch.jobs]
    show_records(screen, listed, batch.folder)
    codes = [each.exit_code for each in listed if each.exit_code]
    waits = any(each.state == "waiting" for each in listed)
    return codes[0] if codes else (ExitCode.STOPPED if waits else ExitCode.DELIVERED)


def _without_shared_destination(batch: Batch) -> list[Problem]:
    """Jobs whose result would stay on a node that goes away."""
    return [
        Problem(
            text=msg(
                "{output_name} has no destination that every node reaches",
                output_name=job.settings.output_name,
            ),
            fix=msg("set destinations for all jobs: s3://bucket/prefix, or a shared folder"),
        )
        for job in batch.jobs
        if not any(not each.startswith("hf://") for each in job.settings.destinations)
    ]


def _absolute(job: Request) -> Request:
    """The job with absolute paths: a node's working directory is another one."""
    output_dir = str(Path(job.settings.output_dir).expanduser().absolute())
    return replace(job, settings=job.settings.model_copy(update={"output_dir": output_dir}))

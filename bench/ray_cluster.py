"""Run a batch on a Ray cluster of three nodes; one node is killed, another cut off the network.

sudo python -m bench.ray_cluster [number of jobs]

Needs root (for `ip netns`) and `tenner[ray,s3]` with moto. Each node is a raylet in a network
namespace, with its own address on a bridge and its own folder of runs; the destination is an S3
server on the bridge that supports conditional writes. While the jobs run, one node is killed with
all its processes, and the link of another is taken down: its jobs keep running and reach nothing.

Checked at the destination: every job is delivered exactly once. Checked by the times of the steps
in each node's logs: no two machines trained the same job at the same time.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import boto3
from botocore.config import Config

from tenner.base.tiny import concept_dir

NET, BRIDGE, HEAD = "10.77.0", "br-tenner", "10.77.0.1"
S3_PORT, RAY_PORT = 5077, 6377
LEASE_SECONDS = 20
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(16)}
RAY = (sys.executable, "-m", "ray.scripts.scripts")
JOBS = f"""
base_model = "tiny"
dataset = "{concept_dir()}"
device = "cpu"
resolution = 64
min_bucket_reso = 64
batch_size = 4
network_dim = 2
optimizer_type = "AdamW"
max_train_steps = 100
save_every_n_steps = 10
no_samples = true
[sweep]
seed = {{seeds}}
"""
KEYS = {
    "AWS_ACCESS_KEY_ID": "loopback",
    "AWS_SECRET_ACCESS_KEY": "loopback-word",
    "AWS_ENDPOINT_URL": f"http://{HEAD}:{S3_PORT}",
    "AWS_REGION": "us-east-1",
}


@dataclass(kw_only=True)
class Node:
    """A raylet in its namespace."""

    name: str
    folder: Path
    number: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return f"tenner-{self.name}"

    def run(self, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        argv = ("ip", "netns", "exec", self.namespace, *arguments)
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env=os.environ | TOKEN | environ,
            stdout=(self.folder / "node.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def pids(self) -> list[int]:
        found = sh("ip", "netns", "pids", self.namespace)
        return [int(each) for each in found.split()]

    def kill(self) -> None:
        """Kill all processes of the node, as a power failure would."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Take the node's network link down."""
        sh("ip", "link", "set", f"v-{self.name}", "down")


def sh(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def bridge(names: tuple[str, ...]) -> Iterator[None]:
    """The namespaces `names`, each with a link to the bridge."""
    sh("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        sh("ip", "addr", "add", f"{HEAD}/24", "dev", BRIDGE)
        sh("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(names, start=2):
            namespace = f"tenner-{name}"
            sh("ip", "netns", "add", namespace)
            sh(
                "ip",
                "link",
                "add",
                f"v-{name}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                namespace,
            )
            sh("ip", "link", "set", f"v-{name}", "master", BRIDGE, "up")
            sh("ip", "-n", namespace, "addr", "add", f"{NET}.{number}/24", "dev", "eth0")
            sh("ip", "-n", namespace, "link", "set", "eth0", "up")
            sh("ip", "-n", namespace, "link", "set", "lo", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", f"tenner-{name}"], check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False)


def start_node(name: str, number: int, folder: Path) -> Node:
    node = Node(name=name, number=number, folder=folder / name)
    node.folder.mkdir()
    arguments = (*RAY, "start", "--block", "--address", f"{HEAD}:{RAY_PORT}")
    arguments += ("--node-ip-address", f"{NET}.{number}", "--num-cpus", "2", "--num-gpus", "0")
    arguments += ("--object-store-memory", "80000000", "--disable-usage-stats")
    for _ in range(5):  # a node that does not start in Ray's own time limit exits
        process = node.run(
            *arguments, TENNER_OUTPUT_DIR=str(node.folder / "runs"), OMP_NUM_THREADS="1"
        )
        log = node.folder / "node.log"
        while process.poll() is None:
            if b"block forever" in log.read_bytes():
                return node
            time.sleep(0.2)
    raise RuntimeError(f"node {name} does not start: see {log}")


def s3() -> object:
    return boto3.client(
        "s3",
        endpoint_url=KEYS["AWS_ENDPOINT_URL"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


def wait_for(what: str, check: object, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if check():
                return
        time.sleep(0.3)
    raise TimeoutError(what)


def jobs_with_state(node: Node) -> int:
    """The number of unfinished jobs on the node that have a state at the destination."""
    logs = [each.read_text() for each in (node.folder / "runs").glob("*/events.jsonl")]
    return sum('"what": "state"' in each and '"event": "done"' not in each for each in logs)


def main(num_jobs: int) -> None:
    """Run the cluster with its two failures, then check what was delivered."""
    folder = Path(tempfile.mkdtemp(prefix="tr-"))
    names = ("one", "two", "three")
    environ = os.environ | KEYS | TOKEN | {"RAY_TMPDIR": str(folder / "r")}
    seeds = list(range(1, num_jobs + 1))
    (folder / "jobs.toml").write_text(
        'destinations = ["s3://loras/all"]\n' + JOBS.format(seeds=seeds)
    )
    others: list[subprocess.Popen[bytes]] = []
    with bridge(names), (folder / "log").open("ab") as log:
        try:
            moto = [sys.executable, "-m", "moto.server", "-H", HEAD, "-p", str(S3_PORT)]
            others.append(subprocess.Popen(moto, stdout=log, stderr=log))
            wait_for("the S3 server", lambda: s3().create_bucket(Bucket="loras"))
            head = [*RAY, "start", "--head", "--block", "--node-ip-address", HEAD]
            head += ["--port", str(RAY_PORT), "--num-cpus", "0", "--num-gpus", "0"]
            head += ["--include-dashboard", "false", "--disable-usage-stats"]
            head += ["--object-store-memory", "80000000"]
            others.append(subprocess.Popen(head, cwd=folder, env=environ, stdout=log, stderr=log))
            time.sleep(8)
            nodes = [start_node(name, at, folder) for at, name in enumerate(names, start=2)]
            time.sleep(10)
            started = time.monotonic()
            argv = [sys.executable, "-m", "tenner", "batch", "jobs.toml"]
            argv += ["--ray", f"{HEAD}:{RAY_PORT}", "--lease-seconds", str(LEASE_SECONDS)]
            driver = subprocess.Popen(argv, cwd=folder, env=environ, stdout=log, stderr=log)
            others.append(driver)
            wait_for("jobs on the first node", lambda: jobs_with_state(nodes[0]) > 0, 600)
            nodes[0].kill()
            print(f"{time.monotonic() - started:5.0f} s: node one killed")
            wait_for("jobs on the second node", lambda: jobs_with_state(nodes[1]) > 0, 600)
            nodes[1].cut()
            print(f"{time.monotonic() - started:5.0f} s: node two cut off", flush=True)
            code = driver.wait(timeout=3000)
            seconds = time.monotonic() - started
            print(f"{seconds:5.0f} s: the batch ended with exit code {code}")
            judge(num_jobs, folder, nodes)
        finally:
            for node in [Node(name=name, number=0, folder=folder) for name in names]:
                with contextlib.suppress(subprocess.CalledProcessError):
                    node.kill()
            for each in others:
                each.terminate()
            for each in others:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    each.wait(20)
                each.kill()
    if os.environ.get("KEEP"):
        print(f"files are in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)


def judge(num_jobs: int, folder: Path, nodes: list[Node]) -> None:
    """Check the destination and the nodes' logs. Raises AssertionError where a job is not right."""
    client = s3()
    delivered, attempts, resumed = 0, 0, 0
    for seed in range(1, num_jobs + 1):
        name = f"jobs-seed-{seed}"

        def read(key: str, name: str = name) -> dict[str, object]:
            return json.loads(
                client.get_object(Bucket="loras", Key=f"all/{name}/{key}")["Body"].read()
            )

        manifest, ledger = read("manifest.json"), read(f".tenner/{name}/ledger.json")
        ended = [attempt for attempt in ledger["attempts"] if attempt["ending"] == "delivered"]
        delivered += len(ended) == 1 and len(manifest["files"]) > 3
        attempts += len(ledger["attempts"])
        resumed += any(attempt["first_step"] > 0 for attempt in ledger["attempts"])
        _one_at_a_time(name, nodes)
    print(f"{num_jobs} jobs, {delivered} delivered exactly once, in {attempts} attempts;")
    print(f"{resumed} resumed from a state at the destination; no job trained twice at once")
    assert delivered == num_jobs


def _one_at_a_time(name: str, nodes: list[Node]) -> None:
    """Check that no two attempts of a job ran at once, by its steps on all nodes in order of time.

    Each step follows the one before, or begins an attempt; two attempts at once would interleave.
    Raises AssertionError.
    """
    taken: set[tuple[str, int]] = set()
    for node in nodes:
        log = node.folder / "runs" / name / "events.jsonl"
        lines = log.read_text().splitlines() if log.is_file() else []
        for line in lines:
            with contextlib.suppress(ValueError):  # cut by the kill
                event = json.loads(line)
                if event["event"] == "step":
                    taken.add((event["time"], event["step"]))
    steps = [step for _, step in sorted(taken)]
    back = sum(after <= before for before, after in itertools.pairwise(steps))
    skipped = [(a, b) for a, b in itertools.pairwise(steps) if b > a + 1]
    assert not skipped, f"{name}: two attempts at once: {steps}"
    assert back <= len(nodes), f"{name}: {back} attempts started over: {steps}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)

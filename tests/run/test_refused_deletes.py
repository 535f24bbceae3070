"""A run whose keys may not delete or list: killed, it is resumed elsewhere from its newest
state."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import Machine, trainer_of

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.fault_proxy import Proxy, fault_proxy
from servers.limited_keys import allow_only
from servers.s3_servers import KEY_ID, SECRET_KEY, moto_server, s3_client

KEYS = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_REGION": "us-east-1",
}
BUCKET = "loras"
SAVES = ("--save_every_n_steps", "5", "--batch_size", "1", "--max_train_steps")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with moto_server(tmp_path) as port, fault_proxy(port) as proxy:
        s3_client(port).create_bucket(Bucket=BUCKET)
        yield proxy


def killed_after_state(machine: Machine, args: tuple[str, ...], *, step: int) -> None:
    """Kill the program and its trainer when the state of this very step has been sent.

    From the step of the save before on the trainer is let run in slices of time that are shorter
    than a step, so that it is never ahead of what is looked at.
    """
    process = machine.start(*args)
    while not any(e["step"] >= step - 5 for e in machine.events("star", "step")):
        assert process.poll() is None, machine.output
        time.sleep(0.01)
    trainer = trainer_of(process.pid)
    assert trainer
    while not any(e["step"] == step for e in machine.events("star", "state")):
        os.kill(trainer, signal.SIGCONT)
        time.sleep(0.02)
        os.kill(trainer, signal.SIGSTOP)
        time.sleep(0.15)  # the program reads meanwhile what the trainer wrote
    while (step, "state") not in [(e["step"], e["what"]) for e in machine.events("star", "sent")]:
        assert process.poll() is None, machine.output
        time.sleep(0.02)
    process.kill()
    process.wait(60)
    with contextlib.suppress(ProcessLookupError):  # it ends with the program
        os.kill(trainer, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize(
    ("permissions", "num_steps", "killed_after"),
    [(("Put", "Get", "List"), "60", 55), (("Put", "Get"), "30", 15)],
)
def test_killed_late_an_empty_machine_resumes_from_the_newest_state(
    proxy: Proxy, tmp_path: Path, permissions: tuple[str, ...], num_steps: str, killed_after: int
) -> None:
    allow_only(proxy, BUCKET, *permissions)
    to = ("--destinations", f"s3://{BUCKET}/run?endpoint_url=http://127.0.0.1:{proxy.port}")
    args = (*SAVES, num_steps, *to)
    first = Machine(tmp_path / "first", **KEYS)
    killed_after_state(first, first.train("star", *args), step=killed_after)
    assert first.output.count("not deleted") == 1, "reported once"

    second = Machine(tmp_path / "second", **KEYS)
    assert second.finish(*second.train("star", *args), timeout=280) == 0, second.output
    started = second.ledger("star")["attempts"][-1]["first_step"]
    assert started == killed_after, "from the newest state"
    assert f"resuming from step {started}" in second.output

    third = Machine(tmp_path / "third", **KEYS)
    assert third.finish(*third.train("star", *args), timeout=280) == 0, third.output
    assert "delivered before" in third.output


@pytest.mark.long
def test_a_drop_box_is_delivered_to_and_the_run_resumes_from_its_own_disk(
    proxy: Proxy, tmp_path: Path
) -> None:
    allow_only(proxy, BUCKET, "Put")
    to = ("--destinations", f"s3://{BUCKET}/run?endpoint_url=http://127.0.0.1:{proxy.port}")
    machine = Machine(tmp_path / "only", **KEYS)
    args = machine.train("star", "--max_train_steps", "12", "--save_every_n_steps", "4", *to)
    machine.cut(args, lambda: any(e["step"] >= 9 for e in machine.events("star", "step")))
    assert machine.finish(*args, timeout=280) == 0, machine.output
    assert "resumes from this machine's disk alone" in " ".join(machine.output.split())
    steps = [event["step"] for event in machine.events("star", "step")]
    assert sorted(set(steps)) == list(range(1, 13))
    assert not machine.events("star", "sent") or not any(
        event["what"] == "state" for event in machine.events("star", "sent")
    )
    again = machine.finish(*args, timeout=120)
    assert again == 0
    assert "delivered before" in machine.output

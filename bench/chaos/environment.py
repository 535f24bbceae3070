"""What all runs share: an S3 server that fails now and then, and an undisturbed run."""

import sys
import time
from pathlib import Path

from program import Machine, StandIn
from servers.fault_proxy import Proxy
from servers.s3_servers import KEY_ID, SECRET_KEY, s3_client

from bench.chaos.history import STEPS
from bench.chaos.moments import Clock, Moment, Pace

BUCKET = "chaos"
ARGUMENTS = ("--max_train_steps", str(STEPS), "--save_every_n_steps", "3")
START_SECONDS = 400.0
"""The longest that one start may take."""
TOKEN = "chaos-token-0123456789"


class Environment:
    """Machines, a server that fails now and then, and an undisturbed run to compare with."""

    def __init__(self, folder: Path, proxy: Proxy, server_port: int, *, stand_in: bool) -> None:
        self.folder = folder
        self.stand_in = stand_in
        self.proxy = proxy
        self.client = s3_client(server_port)
        self.client.create_bucket(Bucket=BUCKET)
        self.undisturbed = self.machine(folder / "undisturbed")
        to = f"s3://{BUCKET}/undisturbed?endpoint_url=http://127.0.0.1:{server_port}"
        started, clock = time.monotonic(), Clock(self.undisturbed.run("star") / "events.jsonl")
        arguments = self.undisturbed.train("star", *ARGUMENTS, "--destinations", to)
        process = self.undisturbed.start(*arguments)
        never = Moment(lines=sys.maxsize, seconds=0)
        while process.poll() is None and time.monotonic() < started + START_SECONDS:
            clock.has_passed(never)
            time.sleep(0.01)
        assert process.poll() == 0, self.undisturbed.output
        self.pace = Pace(lines=clock.seconds(), total=time.monotonic() - started)

    def machine(self, folder: Path) -> Machine:
        temporary = folder / "tmp"
        temporary.mkdir(parents=True)
        keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        keys |= {"TMPDIR": str(temporary), "TENNER_SERVE_TOKEN": TOKEN}
        if self.stand_in:
            return StandIn(folder, STAND_IN_SECONDS="0.05", **keys)
        return Machine(folder, **keys)

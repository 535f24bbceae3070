"""A run's numbers in trackers: as the run's own events have them, and never at the run's cost."""

import json
import math
import struct
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from program import Machine, StandIn
from wandb.proto import wandb_internal_pb2

from tenner.core.command import Command
from tenner.core.events import Event, Step, Warned
from tenner.core.secrets import NO_SECRETS, secrets_from
from tenner.engines.trackers import TrackedRun, tracker_command, tracker_problems
from tenner.settings.model import Settings
from tenner.supervision.tracking import Tracking

KEY = "0123456789abcdef0123456789abcdef01234567"
_BLOCK = 32_768


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """The records of an offline run: LevelDB's log format after seven bytes of W&B's own."""
    content, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if _BLOCK - at % _BLOCK < 7:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        held += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            held = b""
            yield record


@pytest.mark.long
def test_an_offline_run_of_wandb_has_the_numbers_of_the_events_and_no_key(tmp_path: Path) -> None:
    machine = Machine(tmp_path, WANDB_API_KEY=KEY, WANDB_MODE="offline")
    args = ("--max_train_steps", "4", "--log_with", "wandb", "comet_ml")
    assert machine.finish(*machine.train("star", *args)) == 0, machine.output
    (found,) = (machine.run("star") / "logs" / "wandb").glob("offline-run-*/run-*.wandb")
    whole = list(records(found))
    (described,) = (each.run for each in whole if each.HasField("run"))
    assert (described.project, described.display_name) == ("tenner", "star")
    config = {each.key: each.value_json for each in described.config.update}
    config |= {
        item.key: item.value_json
        for each in whole
        if each.HasField("config")
        for item in each.config.update
    }
    assert json.loads(config["learning_rate"]) == 1e-3
    assert json.loads(config["output_dir"]) == "output"
    logged: dict[int, float] = {}
    for each in (one.history for one in whole if one.HasField("history")):
        items = {(item.key or item.nested_key[0]): item.value_json for item in each.item}
        if "loss/current" in items:
            logged[each.step.num or int(items["_step"])] = json.loads(items["loss/current"])
    steps = {each["step"]: each["loss"] for each in machine.events("star", "step")}
    assert logged == steps
    assert "comet_ml: it is not installed" in machine.output
    assert f"wandb sync {found.parent}" in machine.output.replace("\n", "")
    holding = [
        path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    assert holding == []


class _Refusing(BaseHTTPRequestHandler):
    """A server of W&B to which no key is good."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b'{"errors":[{"message":"user is not logged in"}]}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.long
def test_a_tracker_that_refuses_the_key_does_not_end_a_run_of_sd_scripts(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        machine = StandIn(
            tmp_path,
            WANDB_API_KEY=KEY,
            WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}",
        )
        args = ("--max_train_steps", "4", "--log_with", "wandb")
        assert machine.finish(*machine.train("star", *args)) == 0, machine.output
    finally:
        server.shutdown()
        server.server_close()
    assert "wandb does not record this run" in machine.output
    assert KEY not in machine.output
    (given,) = machine.commands("star")
    assert "log_with" not in given


def test_a_trackers_process_that_dies_is_reported_once(tmp_path: Path) -> None:
    printed: list[Event] = []
    run = TrackedRun(
        names=("wandb",), project="p", run_name="r", run_id="1", folder=tmp_path, facts={}
    )
    command = Command(argv=(sys.executable, "-c", "raise SystemExit(3)"))
    with Tracking(run, command, secrets=NO_SECRETS, on_event=printed.append) as trackers:
        for step in range(1, 4):
            trackers.handle(
                Step(step=step, num_steps=3, epoch=1, num_epochs=1, loss=math.nan, loss_avg=1.0)
            )
    (warned,) = printed
    assert isinstance(warned, Warned)
    assert warned.text == "wandb does not record this run: its process ended with code 3"


def test_the_process_is_given_its_own_key_alone_and_none_in_its_arguments(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    environ = {
        "WANDB_API_KEY_FILE": str(file),
        "WANDB_ENTITY": "me",
        "HF_TOKEN": "hf_" + "a" * 30,
        "RUNPOD_API_KEY": "rpa_" + "b" * 30,
    }
    command = tracker_command(Path("python"), ("wandb",), environ, {"PATH": "/bin"})
    assert command.env["WANDB_API_KEY"] == KEY
    assert command.env["WANDB_ENTITY"] == "me"
    assert not {"HF_TOKEN", "RUNPOD_API_KEY", "WANDB_API_KEY_FILE"} & command.env.keys()
    assert KEY not in " ".join(command.argv)


def test_a_key_that_is_missing_is_said_before_the_training() -> None:
    settings = Settings(log_with="wandb")  # pyright: ignore[reportArgumentType]
    (problem,) = tracker_problems(settings, NO_SECRETS, {})
    assert problem.level == "warning"
    assert "WANDB_API_KEY is not set" in problem.text
    assert tracker_problems(settings, NO_SECRETS, {"WANDB_MODE": "offline"}) == ()
    secrets, _ = secrets_from({"WANDB_API_KEY": KEY})
    assert tracker_problems(settings, secrets, {}) == ()

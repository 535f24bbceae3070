"""RunPod and Vast.ai: recognised, their price fetched, ended once, and reported if not."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "run"))

from fake_host import FakeHost, SeenRequest, fake_host
from program import Machine, StandIn

from tenner.core.secrets import Secrets
from tenner.hosts import HostError, check_ending, end_host, fetch_price, find_host
from tenner.hosts.api import ApiRequest, call
from tenner.hosts.host import Host
from tenner.settings.model import Settings

KEY = "loopback-key-of-this-pod"
RUNPOD = {"RUNPOD_POD_ID": "abc123", "RUNPOD_API_KEY": KEY}
VAST = {"CONTAINER_ID": "4711", "CONTAINER_API_KEY": KEY, "VAST_CONTAINERLABEL": "C.4711"}


@pytest.fixture
def api() -> Iterator[FakeHost]:
    with fake_host() as host:
        yield host


def host_of(environ: dict[str, str], api: FakeHost) -> Host:
    names = {name: value for name, value in environ.items() if name.endswith("API_KEY")}
    found = find_host({**environ, "TENNER_HOST_API": api.url}, Secrets(values=names))
    assert found is not None
    return found


def test_no_host_is_seen_where_there_is_none() -> None:
    assert find_host({"CONTAINER_ID": "4711", "HOME": "/root"}, Secrets(values={})) is None


def test_a_host_shows_no_key(api: FakeHost) -> None:
    assert KEY not in repr(host_of(RUNPOD, api))


@pytest.mark.parametrize(
    ("environ", "answer", "usd"),
    [
        (RUNPOD, {"id": "abc123", "costPerHr": "0.74", "adjustedCostPerHr": 0.69}, 0.69),
        (RUNPOD, {"id": "abc123", "costPerHr": "0.74"}, 0.74),
        (RUNPOD, {"costPerHr": None}, None),
        (VAST, {"instances": {"id": 4711, "dph_total": 0.413}}, 0.413),
        (VAST, {"instances": [{"dph_total": 0.2}]}, 0.2),
        (VAST, {"instances": None}, None),
    ],
)
def test_the_price_is_the_hosts_own_word(
    api: FakeHost, environ: dict[str, str], answer: Any, usd: float | None
) -> None:
    api.answer = lambda sent: (200, answer)
    price, problems = fetch_price(Settings(), host_of(environ, api))
    assert problems == ()
    assert (price.usd_per_hour if price else None) == usd
    assert api.requests[0].key == KEY


@pytest.mark.parametrize(
    ("environ", "action", "requested"),
    [
        (RUNPOD, "stop", ("POST", "/pods/abc123/stop", None)),
        (RUNPOD, "remove", ("DELETE", "/pods/abc123", None)),
        (VAST, "stop", ("PUT", "/instances/4711/", {"state": "stopped"})),
        (VAST, "remove", ("DELETE", "/instances/4711/", None)),
    ],
)
def test_each_host_is_ended_by_its_own_request(
    api: FakeHost, environ: dict[str, str], action: Any, requested: tuple[str, str, Any]
) -> None:
    settings = Settings(end_action=action)
    assert end_host(settings, host_of(environ, api), {}, usd_per_hour=0.5, report=print) is None
    assert [(each.method, each.path, each.body) for each in api.requests] == [requested]


def test_transient_errors_of_a_host_are_retried_until_it_succeeds(api: FakeHost) -> None:
    answers = iter([(500, {}), (429, {}), (200, {})])
    api.answer = lambda sent: next(answers)
    host = host_of(RUNPOD, api)
    call(host.end["stop"], url=host.url, key=KEY, limit_seconds=10, waits=0.05)
    assert len(api.requests) == 3


def test_a_host_that_never_answers_or_refuses_is_given_up_in_time(api: FakeHost) -> None:
    api.answer = lambda sent: (0, {})
    request = ApiRequest(method="POST", path="/pods/abc123/stop")
    with pytest.raises(HostError, match="no answer within 1 s") as silent:
        call(request, url=api.url, key=KEY, limit_seconds=1, waits=0.05)
    assert silent.value.is_transient
    api.requests.clear()
    api.answer = lambda sent: (401, {"error": "Unauthorized"})
    with pytest.raises(HostError, match="HTTP 401"):
        call(request, url=api.url, key=KEY, limit_seconds=30, waits=0.05)
    assert len(api.requests) == 3


def test_a_machine_that_still_costs_money_is_reported_with_its_price_and_page(
    api: FakeHost,
) -> None:
    api.answer = lambda sent: (401, {})
    problem = end_host(
        Settings(end_action="stop"), host_of(RUNPOD, api), {}, usd_per_hour=0.69, report=print
    )
    assert problem is not None
    assert "NOT stopped and costs $0.69 an hour: HTTP 401" in problem.text
    assert "https://console.runpod.io/pods" in problem.fix


def test_a_users_command_takes_the_place_of_the_host(api: FakeHost, tmp_path: Path) -> None:
    settings = Settings(end_action="stop", end_command=f"echo $WHERE >> {tmp_path}/ended")
    assert check_ending(settings, None) == ()
    environ = {"WHERE": "here"}
    assert end_host(settings, host_of(VAST, api), environ, usd_per_hour=None, report=print) is None
    assert (tmp_path / "ended").read_text() == "here\n"
    assert api.requests == []
    failing = Settings(end_command="exit 3")
    problem = end_host(failing, None, {}, usd_per_hour=None, limit_seconds=1, report=print)
    assert problem is not None
    assert "code 3, 3 times" in problem.text


def test_an_end_that_cannot_work_is_found_before_the_training(tmp_path: Path) -> None:
    here = Machine(tmp_path / "here")
    assert here.finish(*here.train("cat", "--end_action", "stop")) == 2
    assert "no RunPod pod or Vast.ai instance" in here.output
    pod = Machine(tmp_path / "pod", RUNPOD_POD_ID="abc123")
    assert pod.finish(*pod.train("cat", "--end_action", "stop")) == 2
    assert "RUNPOD_API_KEY, which is not set" in pod.output


def pod_of(tmp_path: Path, api: FakeHost, **extra: str) -> StandIn:
    return StandIn(tmp_path / "pod", TENNER_HOST_API=api.url, **RUNPOD, **extra)


def test_a_run_is_trained_once_and_its_pod_ended_after_each_start(
    api: FakeHost, tmp_path: Path
) -> None:
    def answer(sent: SeenRequest) -> tuple[int, Any]:
        return 200, {"costPerHr": 0.69}

    api.answer = answer
    pod, saved = pod_of(tmp_path, api), f"file://{tmp_path}/stored"
    args = ("--max_train_steps", "12", "--end_action", "stop", "--destinations", saved)
    assert pod.finish(*pod.train("cat", *args)) == 0, pod.output
    assert (api.count("POST", "/stop"), len(pod.commands("cat"))) == (1, 1)
    assert "costs $0.690 an hour" in pod.output
    assert pod.ledger("cat")["attempts"][0]["cost_usd"] > 0
    # The host starts a container that ended again, with its disk or on an empty one.
    assert pod.finish(*pod.train("cat", *args)) == 0, pod.output
    assert (api.count("POST", "/stop"), len(pod.commands("cat"))) == (2, 1)
    empty = StandIn(tmp_path / "empty", TENNER_HOST_API=api.url, **RUNPOD)
    assert empty.finish(*empty.train("cat", *args)) == 0, empty.output
    assert api.count("POST", "/stop") == 3
    assert not (empty.run("cat") / "engine.log").exists()
    assert KEY not in pod.output + empty.output


@pytest.mark.parametrize(("how", "code", "ends"), [("nan", 5, 1), ("no_file", 5, 0)])
def test_a_pod_is_ended_only_where_something_was_delivered(
    api: FakeHost, tmp_path: Path, how: str, code: int, ends: int
) -> None:
    api.answer = lambda sent: (200, {"costPerHr": 0.69})
    pod = pod_of(tmp_path, api, STAND_IN=how, STAND_IN_STEPS="9")
    every = "4" if ends else "90"
    args = ("--max_train_steps", "40", "--save_every_n_steps", every, "--end_action", "remove")
    saved = ("--destinations", f"file://{tmp_path}/stored")
    assert pod.finish(*pod.train("cat", *args, *saved)) == code, pod.output
    assert api.count("DELETE") == ends


def test_a_key_that_is_refused_is_found_at_the_start(api: FakeHost, tmp_path: Path) -> None:
    api.answer = lambda sent: (401, {"error": "Unauthorized"})
    pod = pod_of(tmp_path, api)
    assert pod.finish(*pod.train("cat", "--max_train_steps", "12", "--end_action", "stop")) == 2
    assert "RUNPOD_API_KEY is refused" in pod.output
    assert pod.finish(*pod.train("cat", "--max_train_steps", "12")) == 0
    assert "gives no price: HTTP 401" in pod.output

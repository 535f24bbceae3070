"""A webhook receives how a run goes, in its own words, and never holds the run up."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "run"))

from fake_host import FakeHost, fake_host
from program import StandIn

from tenner.ui.notify import format_of, message


@pytest.fixture
def hook() -> Iterator[FakeHost]:
    with fake_host() as host:
        yield host


@pytest.mark.parametrize(
    ("address", "requested", "form"),
    [
        ("https://discord.com/api/webhooks/1/x", "auto", "discord"),
        ("https://hooks.slack.com/services/T/B/x", "auto", "slack"),
        ("https://example.org/hook", "auto", "json"),
        ("https://example.org/hook", "slack", "slack"),
        ("https://discord.com.example.org/hook", "auto", "json"),
    ],
)
def test_the_shape_is_reported_by_the_address(address: str, requested: str, form: str) -> None:
    assert format_of(address, requested) == form


def test_each_shape_is_what_its_service_takes() -> None:
    text = "a <!channel> @everyone & so on"
    assert message("failed", "cat", text, {}, "discord") == {
        "content": f"tenner · cat · failed: {text}",
        "allowed_mentions": {"parse": []},
    }
    slack = message("failed", "cat", text, {}, "slack")
    assert slack == {"text": "tenner · cat · failed: a &lt;!channel&gt; @everyone &amp; so on"}
    plain = message("checkpoint", "cat", "step 4", {"step": 4}, "json")
    assert plain == {"event": "checkpoint", "run": "cat", "text": "step 4", "step": 4}
    assert len(message("failed", "cat", "x" * 9000, {}, "discord")["content"]) <= 2000


def test_a_run_tells_its_course_and_no_secret(hook: FakeHost, tmp_path: Path) -> None:
    address = f"{hook.url}/hook/with-a-password"
    machine = StandIn(tmp_path, TENNER_WEBHOOK=address)
    args = ("--max_train_steps", "12", "--save_every_n_steps", "4")
    assert machine.finish(*machine.train("cat", *args)) == 0, machine.output
    reported = [each.body["event"] for each in hook.requests]
    assert (reported[0], reported[-1]) == ("started", "delivered")
    assert reported.count("checkpoint") >= 3
    assert "with-a-password" not in machine.output
    everything = b"".join(
        path.read_bytes() for path in machine.folder.rglob("*") if path.suffix not in ("", ".x")
    )
    assert b"with-a-password" not in everything


@pytest.mark.parametrize(("status", "reason"), [(0, ""), (404, "HTTP 404"), (500, "HTTP 500")])
def test_a_webhook_that_is_away_holds_nothing_up(
    hook: FakeHost, tmp_path: Path, status: int, reason: str
) -> None:
    hook.answer = lambda sent: (status, {})
    machine = StandIn(tmp_path, TENNER_WEBHOOK=f"{hook.url}/hook", STAND_IN="no_file")
    assert machine.finish(*machine.train("cat", "--max_train_steps", "12"), timeout=40) == 5
    assert machine.output.count("the webhook does not take messages") <= 1
    assert reason in machine.output

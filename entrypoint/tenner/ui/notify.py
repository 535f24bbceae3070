"""Reports a run to a webhook: started, checkpoints, samples, delivered, failed.

The address is a secret (`TENNER_WEBHOOK`, or `TENNER_WEBHOOK_FILE`): whoever has it can write
there. Messages are sent by a thread of their own; one that does not arrive is reported once and
never holds the run up.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from tenacity import stop_after_attempt

from tenner.core.errors import Problem
from tenner.core.events import Checkpoint, Drew, Event, Step, Warned
from tenner.core.messages import msg
from tenner.core.retry import retry_policy
from tenner.core.secrets import Secrets
from tenner.settings.model import Settings

Format = Literal["json", "discord", "slack"]
News = Literal["started", "checkpoint", "sample", "delivered", "failed", "stopped", "budget"]
_TRIES = 3
_CALL_SECONDS = 10.0
_LONGEST = 1800
"""Discord takes 2,000 letters, Slack more."""


def format_of(address: str, requested: str) -> Format:
    """The format of messages that the address takes, by its host where `requested` is `auto`."""
    if requested in ("json", "discord", "slack"):
        return requested
    host = urlsplit(address).hostname or ""
    if host in ("discord.com", "discordapp.com") or host.endswith(".discord.com"):
        return "discord"
    return "slack" if host.endswith("slack.com") else "json"


def message(news: News, run: str, text: str, facts: dict[str, Any], form: Format) -> dict[str, Any]:
    """The body of one message. Pure."""
    words = f"tenner · {run} · {news}" + (f": {text}" if text else "")
    words = words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"
    match form:
        case "discord":
            return {"content": words, "allowed_mentions": {"parse": []}}
        case "slack":
            return {"text": words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
        case "json":
            return {"event": news, "run": run, "text": text, **facts}


def webhook_problems(secrets: Secrets) -> tuple[Problem, ...]:
    """What is wrong with the address; it is not shown."""
    address = secrets.get("TENNER_WEBHOOK")
    if not address or urlsplit(address).scheme in ("http", "https"):
        return ()
    text = msg("TENNER_WEBHOOK is no web address")
    return (Problem(text=text, fix=msg("set it to an https:// address")),)


class _Refused(Exception):
    """The webhook's server did not take a message. `is_transient` where another try may help."""

    def __init__(self, text: str, *, is_transient: bool) -> None:
        super().__init__(text)
        self.is_transient = is_transient


@dataclass(frozen=True, kw_only=True)
class _Delivery:
    body: dict[str, Any]


class Notifier:
    """Used as a context; at its end what still waits is given a few seconds."""

    def __init__(
        self,
        run: str,
        secrets: Secrets,
        *,
        requested_format: str,
        on_event: Callable[[Event], None],
        last_seconds: float = 5.0,
    ) -> None:
        self._run = run
        self._secrets = secrets
        self._address = secrets.get("TENNER_WEBHOOK") or ""
        self._format: Format = format_of(self._address, requested_format)
        self._on_event = on_event
        self._last_seconds = last_seconds
        self._queue: queue.Queue[_Delivery | None] = queue.Queue(maxsize=100)
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._has_warned = False
        self._step: dict[str, Any] = {}

    @staticmethod
    def of(
        settings: Settings, secrets: Secrets, *, on_event: Callable[[Event], None]
    ) -> "Notifier":
        """The notifier of a run with these settings; without an address it sends nothing."""
        requested = settings.webhook_format
        return Notifier(
            settings.output_name, secrets, requested_format=requested, on_event=on_event
        )

    def __enter__(self) -> "Notifier":
        if self._address:
            self._thread.start()
        return self

    def __exit__(self, *of_the_error: object) -> None:
        if self._address:
            self._put(None)
            self._thread.join(self._last_seconds)

    def flush(self, seconds: float = 5.0) -> None:
        """Wait for what was reported, no longer than `seconds`."""
        until = time.monotonic() + seconds
        while self._queue.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.05)

    def handle(self, event: Event) -> None:
        """Take in an event of the run."""
        match event:
            case Step():
                self._step = {"step": event.step, "num_steps": event.num_steps}
                self._step["loss"] = round(event.loss_avg, 5)
            case Checkpoint(step=step, epoch=epoch):
                self.send("checkpoint", f"step {step}, epoch {epoch}")
            case Drew(epoch=epoch):
                self.send("sample", f"pictures of epoch {epoch} are drawn")
            case _:
                pass

    def send(self, news: News, text: str = "", **facts: Any) -> None:
        """Send a message, soon. No secret is in it."""
        if self._address:
            all_facts = {**self._step, **facts}
            clean = self._secrets.redact(text)
            self._put(_Delivery(body=message(news, self._run, clean, all_facts, self._format)))

    def _put(self, delivery: _Delivery | None) -> None:
        with contextlib.suppress(queue.Full):  # the other side was away for a hundred messages
            self._queue.put_nowait(delivery)

    def _work(self) -> None:
        while delivery := self._queue.get():
            self._send(delivery)
            self._queue.task_done()

    def _send(self, delivery: _Delivery) -> None:
        again = retry_policy(
            lambda error: isinstance(error, _Refused) and error.is_transient,
            stop_after_attempt(_TRIES),
            first_seconds=0.5,
        )
        try:
            again(lambda: self._post(delivery))
        except _Refused as error:
            self._warn_once(str(error))

    def _post(self, delivery: _Delivery) -> None:
        import httpx  # a plan looks at the address too, and sends nothing

        try:
            answer = httpx.post(self._address, json=delivery.body, timeout=_CALL_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Without its text, which may hold the address.
            raise _Refused(type(error).__name__, is_transient=True) from error
        status = answer.status_code
        if not answer.is_success:
            raise _Refused(f"HTTP {status}", is_transient=status >= 500 or status == 429)

    def _warn_once(self, trouble: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._on_event(
                Warned(text=msg("the webhook does not take messages: {trouble}", trouble=trouble))
            )

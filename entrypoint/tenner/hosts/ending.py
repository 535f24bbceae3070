"""Ends a rented machine: stops or removes it once everything is delivered and verified.

A machine that keeps running costs money for nothing, so the call is retried for minutes, and a
failure is reported prominently. If `end_command` is set, it is run instead of the host's API.
"""

import subprocess
import time
from collections.abc import Callable, Mapping

from tenacity import stop_after_attempt, stop_after_delay

from tenner.core.errors import Problem
from tenner.core.messages import msg
from tenner.core.retry import retry_policy
from tenner.hardware.prices import Price
from tenner.hosts.api import HostError, call
from tenner.hosts.host import Action, Host, price_of_host
from tenner.settings.model import Settings

LIMIT_SECONDS = 300.0
COMMAND_TRIES = 3


def check_ending(settings: Settings, host: Host | None) -> tuple[Problem, ...]:
    """Why the requested end action could not work; checked before money is spent."""
    if settings.end_action == "none" or settings.end_command:
        return ()
    if host is None:
        text = msg(
            "end_action = '{end_action}': this is no RunPod pod or Vast.ai instance",
            end_action=settings.end_action,
        )
        return (
            Problem(text=text, fix=msg("set end_command to what ends this machine, or remove it")),
        )
    if not host.key:
        text = msg(
            "end_action = '{end_action}' needs {key_name}, which is not set",
            end_action=settings.end_action,
            key_name=host.key_name,
        )
        return (Problem(text=text, fix=msg("set it in the {name}'s environment", name=host.name)),)
    return ()


def fetch_price(settings: Settings, host: Host | None) -> tuple[Price | None, tuple[Problem, ...]]:
    """The price by the host's API, and the problems with that API.

    A refused key is an error if the API will be needed to end the machine.
    """
    if host is None or not host.key:
        return None, ()
    try:
        return price_of_host(host), ()
    except HostError as error:
        refused = error.status in (401, 403) and settings.end_action != "none"
        needed = refused and not settings.end_command
        text = msg("{host} gives no price: {error}", host=host, error=error)
        if needed:
            fix = msg(
                "{key_name} is refused: set one that may stop this machine", key_name=host.key_name
            )
        else:
            fix = msg("set price_per_hour, so that max_cost_usd can be held")
        return None, (Problem(text=text, fix=fix, level="error" if needed else "note"),)


def end_host(
    settings: Settings,
    host: Host | None,
    environ: Mapping[str, str],
    *,
    usd_per_hour: float | None,
    limit_seconds: float = LIMIT_SECONDS,
    report: Callable[[str], None],
) -> Problem | None:
    """Stop or remove the machine after a delivered run, as set; returns a failure."""
    action = settings.end_action
    if settings.end_command:
        return _run_command(settings.end_command, environ, limit_seconds, report)
    if action == "none" or host is None:
        return None
    report(f"{'stopping' if action == 'stop' else 'removing'} this {host}")
    try:
        call(host.end[action], url=host.url, key=host.key, limit_seconds=limit_seconds)
    except HostError as error:
        if error.status == 404 and action == "remove":
            return None  # it is removed already
        return _still_running(str(host), action, str(error), host.page, usd_per_hour)
    return None


class _CommandFailed(Exception):
    """The user's command ended with another code than 0."""


def _run_command(
    command: str, environ: Mapping[str, str], limit_seconds: float, report: Callable[[str], None]
) -> Problem | None:
    """Run the user's command in a shell, with this program's environment."""
    until = time.monotonic() + limit_seconds

    def once() -> None:
        report("running end_command")
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            timeout=max(1.0, until - time.monotonic()),
            check=False,
        )
        if done.returncode != 0:
            raise _CommandFailed(
                msg("end_command ended with code {returncode}", returncode=done.returncode)
            )

    again = retry_policy(
        lambda error: isinstance(error, _CommandFailed),
        stop_after_attempt(COMMAND_TRIES) | stop_after_delay(limit_seconds),
        first_seconds=1.0,
    )
    by_hand = msg("end this machine by hand")
    try:
        again(once)
    except subprocess.TimeoutExpired:
        return Problem(
            text=msg(
                "end_command did not end within {limit_seconds} s",
                limit_seconds=f"{limit_seconds:.0f}",
            ),
            fix=by_hand,
        )
    except _CommandFailed as error:
        return Problem(
            text=msg("{error}, {command_tries} times", error=error, command_tries=COMMAND_TRIES),
            fix=by_hand,
        )
    return None


def _still_running(
    host: str, action: Action, why: str, page: str, usd_per_hour: float | None
) -> Problem:
    done = "stopped" if action == "stop" else "removed"
    price = (
        msg(" and costs ${usd_per_hour} an hour", usd_per_hour=f"{usd_per_hour:.2f}")
        if usd_per_hour
        else msg(" and still costs money")
    )
    return Problem(
        text=msg(
            "everything is delivered, but this {host} was NOT {done}{price}: {why}",
            host=host,
            done=done,
            price=price,
            why=why,
        ),
        fix=msg("{action} it now at {page}", action=action, page=page),
    )

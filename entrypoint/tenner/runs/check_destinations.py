"""Checks before the training whether the keys may write, read and delete at every destination."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tenner.core.errors import Level, Problem, errors_in
from tenner.core.messages import joined, msg
from tenner.core.parallel import in_parallel
from tenner.core.retry import Deadline, PermanentError, TransientError, retrying
from tenner.core.secrets import Secrets
from tenner.storage.destination import Destination
from tenner.storage.manifest import MANIFEST_NAME, read_manifest
from tenner.storage.opening import open_store
from tenner.storage.progress import Repeats
from tenner.storage.store import Store

DEFAULT_CHECK_SECONDS = 60.0


def check_destinations(
    destinations: Sequence[Destination],
    *,
    secrets: Secrets,
    job: str = "",
    env: Mapping[str, str] | None = None,
    total_limit_seconds: float = DEFAULT_CHECK_SECONDS,
    on_trouble: Callable[[str], None] | None = None,
) -> tuple[Problem, ...]:
    """Write, read and delete a probe at all destinations in parallel; returns all problems.

    Those of an optional destination are warnings, and so is a complete set of another `job` there,
    whose files of the same names would be replaced. `on_trouble` gets errors that are retried.
    """
    environ = os.environ if env is None else env
    limit = Deadline(total_limit_seconds)

    def check(destination: Destination) -> tuple[Problem, ...]:
        repeats = Repeats()

        def report(trouble: str) -> None:
            if on_trouble and (since := repeats.is_due(trouble)):
                text = msg("{destination}: {trouble}", destination=destination, trouble=trouble)
                on_trouble(secrets.redact(joined(text, since)))

        deadline = limit.reporting_to(report)
        try:
            store = open_store(destination, secrets=secrets, env=environ)
            found = retrying(deadline, lambda: store.probe(deadline))
            if errors_in(found) or not store.permissions(deadline).reads:
                return found
            return (*found, *retrying(deadline, lambda: _other_set(store, job, deadline)))
        except PermanentError as refused:
            return (refused.problem,)

    ended = in_parallel(
        [partial(check, destination) for destination in destinations],
        num_workers=len(destinations),
        deadline=limit,
        name="tenner-check",
    )
    answers = [_answer(each, where) for each, where in zip(ended, destinations, strict=True)]
    return tuple(
        Problem(
            text=secrets.redact(problem.text),
            fix=secrets.redact(problem.fix),
            level=_level(problem, destination),
        )
        for destination, problems in zip(destinations, answers, strict=True)
        for problem in problems
    )


def _answer(
    ended: tuple[Problem, ...] | BaseException, destination: Destination
) -> tuple[Problem, ...]:
    """The result of one check. Errors of our own code are raised."""
    if isinstance(ended, TransientError):
        text = msg("cannot reach {destination}: {ended}", destination=destination, ended=ended)
        return (Problem(text=text, fix=msg("check the address and the network of this machine")),)
    if isinstance(ended, BaseException):
        raise ended
    return ended


def _level(problem: Problem, destination: Destination) -> Level:
    if problem.level == "error" and not destination.required:
        return "warning"
    return problem.level


def _other_set(store: Store, job: str, deadline: Deadline) -> tuple[Problem, ...]:
    """The warning where another run's complete set is at the destination."""
    content = store.read(MANIFEST_NAME, deadline)
    there = read_manifest(content) if content else None
    if there is None or not job or there.job == job:
        return ()
    return (
        Problem(
            text=msg(
                "{destination} already holds the complete set of another run ({job}, {n} files)",
                destination=store.destination,
                job=there.job or msg("without a name"),
                n=len(there.files),
            ),
            fix=msg(
                "its files of the same names will be replaced; use another folder to keep both"
            ),
            level="warning",
        ),
    )

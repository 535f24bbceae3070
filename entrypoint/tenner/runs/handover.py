"""Delivers the files of a trained run to its destinations, and verifies them there."""

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from tenner.core.checksums import DeliveredFile
from tenner.core.errors import DeliveryError, Problem
from tenner.core.events import Event, Warned
from tenner.core.files import write_json
from tenner.core.messages import msg
from tenner.core.retry import Deadline
from tenner.core.run_dir import RunDir
from tenner.core.secrets import Secrets
from tenner.core.weights import ema_path
from tenner.report.facts import FileFact
from tenner.report.model_card import CARD_NAME
from tenner.runs.civitai import archive_name
from tenner.runs.deliver import Delivered, deliver
from tenner.runs.ledger import ledger_of
from tenner.storage.destination import Destination

PAUSE_SECONDS = 60.0
"""Between two deliveries during `keep_alive_minutes`, besides the retries in each."""


def default_destination(run_dir: RunDir) -> Destination:
    """A folder in the run's own directory."""
    return Destination(kind="folder", root=str((run_dir.path / "delivered").absolute()))


def deliver_run(
    run_dir: RunDir,
    destinations: tuple[Destination, ...],
    *,
    name: str,
    secrets: Secrets,
    environ: Mapping[str, str],
    on_event: Callable[[Event], None],
    deadline: Deadline | None = None,
) -> Delivered:
    """Deliver the files of a trained run, and write where they are to `delivered.json`.

    Raises DeliveryError with the command to retry; local files stay.
    """
    try:
        delivered = deliver(
            delivered_files(run_dir, name),
            destinations,
            secrets=secrets,
            on_event=on_event,
            job=name,
            env=environ,
            deadline=deadline,
        )
    except DeliveryError as error:
        retry = Problem(
            text=msg("the files are in {path}", path=run_dir.path),
            fix=msg("when the cause is fixed: tenner deliver {path}", path=run_dir.path),
        )
        raise DeliveryError(problems=[*error.problems, retry]) from error
    try:
        write_json(run_dir.delivered, delivered.to_json())
    except OSError as error:
        text = msg(
            "{delivered} cannot be written: {strerror}",
            delivered=run_dir.delivered,
            strerror=error.strerror or error,
        )
        on_event(
            Warned(text=text, fix=msg("free space on the disk; what is delivered is verified"))
        )
    return delivered


def deliver_persistently(
    deliver_once: Callable[[], Delivered],
    *,
    minutes: float,
    stopped: Callable[[], bool],
    on_event: Callable[[Event], None],
    pause_seconds: float = PAUSE_SECONDS,
) -> Delivered:
    """Deliver, and retry after failures until `minutes` have passed or a signal came.

    Raises the last DeliveryError.
    """
    until = time.monotonic() + 60 * minutes
    while True:
        try:
            return deliver_once()
        except DeliveryError as error:
            left = until - time.monotonic()
            if left <= 0 or stopped():
                raise
            why = error.problems[0]
            text = msg(
                "not delivered: {text}; retried for {left} more minutes",
                text=why.text,
                left=f"{left / 60:.0f}",
            )
            on_event(Warned(text=text, fix=why.fix))
        wake = min(until, time.monotonic() + pause_seconds)
        while time.monotonic() < wake and not stopped():
            time.sleep(min(0.5, pause_seconds))


def unplanned_checkpoints(run_dir: RunDir, name: str) -> frozenset[str]:
    """The names of checkpoints that a stop or a limit saved between two planned saves: a finished
    run is delivered without them. The result before an extension is not one of them."""
    try:
        options: dict[str, Any] = json.loads(run_dir.plan.read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()
    found: set[str] = set()
    ledger = ledger_of(run_dir)
    attempts = ledger.attempts if ledger else ()
    results = {each.last_step for each in attempts if each.ending == "delivered"}
    for path in run_dir.checkpoints.glob(f"{name}-*.safetensors"):
        saved = re.fullmatch(r"(step)?(\d+)(?:-ema)?", path.stem.removeprefix(f"{name}-"))
        if saved is None:
            continue
        every = options.get(f"save_every_n_{'steps' if saved[1] else 'epochs'}")
        is_planned = int(saved[2]) % int(every) == 0 if every else not saved[1]
        was_result = bool(saved[1]) and int(saved[2]) in results
        if not is_planned and not was_result:
            found.add(path.name)
    return frozenset(found)


def delivered_files(run_dir: RunDir, name: str) -> list[DeliveredFile]:
    """The files of a delivery: the LoRA and its moving average, planned checkpoints, the model card
    with its pictures, the grid, the page, the settings."""
    final = run_dir.checkpoints / f"{name}.safetensors"
    average = ema_path(final)
    ends = [final, *([average] if average.is_file() else [])]
    files = [DeliveredFile(path=path, name=path.name) for path in ends]
    unplanned = unplanned_checkpoints(run_dir, name)
    files += [
        DeliveredFile(path=path, name=f"checkpoints/{path.name}")
        for path in sorted(run_dir.checkpoints.glob(f"{name}-*.safetensors"))
        if path.name not in unplanned and path != average
    ]
    pictures = [*run_dir.samples.glob("epoch-*.png"), *run_dir.samples.glob("widget-*.png")]
    for path, to in (
        (run_dir.path / CARD_NAME, CARD_NAME),
        (run_dir.samples / "grid.png", "samples/grid.png"),
        *((picture, f"samples/{picture.name}") for picture in sorted(pictures)),
        (run_dir.path / archive_name(name), archive_name(name)),
        (run_dir.report, "report.html"),
        (run_dir.shared_settings, "settings.toml"),
        (run_dir.plan, "plan.json"),
    ):
        if path.is_file():
            files.append(DeliveredFile(path=path, name=to))
    return files


def file_facts(delivered: Delivered) -> tuple[FileFact, ...]:
    """The delivered files, and the destinations that have them."""
    where = ", ".join(each.destination for each in delivered.at)
    return tuple(
        FileFact(name=each.name, size_bytes=each.size, sha256=each.sha256, where=where)
        for each in delivered.manifest.files
    )

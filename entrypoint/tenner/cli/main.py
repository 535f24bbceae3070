"""The command line: arguments and environment in, an exit code out.

Other packages are imported by the command that needs them, so that `--help` and `plan` answer at
once.
"""

import argparse
import contextlib
import json
import os
import select
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tenner import __version__
from tenner.cli.command_line import NOT_SETTINGS, make_parser, parse_command_line, print_help
from tenner.cli.flags import flag_values
from tenner.cli.positional import is_dataset
from tenner.core.early_stop import report_sigterm
from tenner.core.errors import ExitCode, Problem, SettingsError, TennerError
from tenner.core.last_handler import as_tenner_error, handle_threads
from tenner.core.messages import msg
from tenner.core.secrets import redact_problem
from tenner.core.sizes import size_words
from tenner.core.writable import require_temporary_folder
from tenner.dataset.workers import early_workers
from tenner.kohya import options as facts
from tenner.settings import Request, load_request
from tenner.settings.environment import unquote
from tenner.ui.lines import duration
from tenner.ui.plain_text import print_any_text
from tenner.ui.screen import Screen, make_screen

if TYPE_CHECKING:
    from tenner.library.training import Result
    from tenner.queue.jobs import Batch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program. Returns the exit code of `tenner.core.errors.ExitCode`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    print_any_text()
    if not arguments:
        print_help()
        return ExitCode.SETTINGS
    handle_threads(os.environ)
    report_sigterm()
    unquote(os.environ)
    try:
        parsed = parse_command_line(arguments)
    except SettingsError as error:
        return _ended(error)
    try:
        if parsed.command in _WRITES_TEMPORARY_FILES:
            require_temporary_folder()
        code = _COMMANDS[parsed.command](parsed, os.environ)
        sys.stdout.flush()
        return code
    except TennerError as error:
        return _ended(error, parsed)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return ExitCode.STOPPED
    except Exception as error:  # noqa: BLE001  the last handler: no traceback leaves the program
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return ExitCode.STOPPED
        return _ended(as_tenner_error(error, os.environ), parsed)


def _is_output_closed() -> bool:
    """Whether nobody reads what is printed any more (`tenner plan | head`); then nothing more is
    written there."""
    watched = select.poll()
    watched.register(sys.stdout.fileno(), 0)
    closed = any(what & select.POLLERR for _, what in watched.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def _ended(error: TennerError, parsed: argparse.Namespace | None = None) -> int:
    """Report how a command failed. Returns its exit code."""
    with contextlib.suppress(OSError):
        problems = [redact_problem(each) for each in error.problems]
        screen = make_screen()
        for problem in problems:
            screen.problem(problem)
        if parsed is not None and getattr(parsed, "json", False):
            _print_failure(error.exit_code, problems, parsed)
    return error.exit_code


def _print_failure(
    exit_code: ExitCode, problems: Sequence[Problem], parsed: argparse.Namespace
) -> None:
    """The failure of a command with `--json`: its last line, or its document."""
    failure = {"exit_code": int(exit_code), "problems": [asdict(each) for each in problems]}
    if parsed.command in ("train", "batch") and not getattr(parsed, "dry_run", False):
        _print_result(**failure)
    else:
        print(json.dumps(failure, ensure_ascii=False, indent=1), flush=True)


def _print_result(**values: object) -> None:
    """The last line of `train --json`, and of a `batch --json` that failed."""
    print(json.dumps({"event": "result", **values}, ensure_ascii=False), flush=True)


def _request(parsed: argparse.Namespace, environ: Mapping[str, str]) -> Request:
    """The settings of a job. The positional argument may be the dataset instead of the settings
    file.

    Raises SettingsError.
    """
    flags = flag_values(parsed, not_settings=NOT_SETTINGS)
    named = parsed.config or parsed.config_flag
    if named and is_dataset(named):
        if flags.setdefault("dataset", named) != named:
            raise SettingsError(
                msg(
                    "the dataset is given twice: {named} and --dataset {flags}",
                    named=named,
                    flags=flags["dataset"],
                ),
                fix=msg("keep one of them"),
            )
        named = parsed.config_flag if parsed.config else None
    return load_request(flags, environ, config=Path(named) if named else None, preset=parsed.preset)


def written_folder(parsed: argparse.Namespace, environ: Mapping[str, str]) -> Path:
    """The folder that a command writes to, by its flags, variables and settings file. Raises
    SettingsError."""
    match parsed.command:
        case "train" | "plan" | "check":
            return Path(_request(parsed, environ).settings.output_dir)
        case "batch":
            return Path(_read_batch(parsed, environ).jobs[0].settings.output_dir)
        case "demo" | "doctor":
            return Path(parsed.output_dir)
        case "status" | "deliver" | "serve":
            return Path(parsed.run)
        case "caption":
            return Path(parsed.output or parsed.folder)
        case _:
            return Path("output")


def _train(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.library.training import train

    request = _request(parsed, environ)
    screen = _run_screen(parsed, request)
    result = train(
        request, environ=environ, restart=parsed.restart, handle_signals=True, screen=screen
    )
    try:
        if parsed.json:
            _print_result(exit_code=int(ExitCode.DELIVERED), **result.to_json())
        elif result.state == "delivered before":
            print(f"this run was delivered before, to {', '.join(result.delivered_to)}")
            print("  nothing was trained; --restart starts over")
        else:
            _print_outcome(result)
        sys.stdout.flush()
    except OSError:  # a log on a full disk: the run is delivered all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.DELIVERED


def _run_screen(parsed: argparse.Namespace, request: Request) -> Screen:
    return make_screen(
        price_per_hour=request.settings.price_per_hour,
        quiet=parsed.quiet,
        as_json=parsed.json,
        has_times=True,
    )


def _plan(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.cli.plan import print_comparison, print_plan

    request = _request(parsed, environ)
    if parsed.gpu:
        print_comparison(request, environ, parsed.gpu, as_json=parsed.json, quiet=parsed.quiet)
    else:
        print_plan(request, environ, as_json=parsed.json, quiet=parsed.quiet)
    return 0


def _doctor(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.cli.doctor import run_doctor

    return run_doctor(
        environ,
        output_dir=Path(parsed.output_dir),
        as_json=parsed.json,
        base_model=parsed.base_model,
    )


def _check(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    with early_workers():
        from tenner.cli.check import run_check

        return run_check(
            _request(parsed, environ),
            environ,
            as_json=parsed.json,
            strict=parsed.strict,
            page=Path(parsed.page) if parsed.page else None,
            quiet=parsed.quiet,
        )


def _caption(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.core.events import Phase
    from tenner.pipeline.captioning import choose_kind, draft_captions, summary
    from tenner.pipeline.drafting import CaptionRequest

    base, model = parsed.base_model or "", Path(parsed.model) if parsed.model else None
    request = CaptionRequest(
        folder=Path(parsed.folder),
        kind=choose_kind(parsed.kind, base, model),
        model=model,
        prompt=parsed.prompt,
        trigger=parsed.trigger,
        output=Path(parsed.output) if parsed.output else None,
        overwrite=parsed.overwrite,
        threshold=parsed.threshold,
        character_threshold=parsed.character_threshold,
        left_out=tuple(tag.strip() for tag in parsed.leave_out.split(",") if tag.strip()),
        device=parsed.device,
    )
    with make_screen(has_times=True, quiet=parsed.quiet) as screen:
        result = draft_captions(
            request,
            environ,
            lambda what, done, total: screen.show(
                Phase(name="caption", detail=what, done=done, total=total)
            ),
        )
    print(summary(result, request))
    nothing = bool(result.left_out) and not result.drafted
    return ExitCode.DATASET if nothing else ExitCode.DELIVERED


def _read_batch(parsed: argparse.Namespace, environ: Mapping[str, str]) -> "Batch":
    """Raises SettingsError."""
    from tenner.queue.jobs import read_batch

    options = {
        "stop_after": parsed.stop_after,
        "shortest_first": parsed.shortest_first,
        "max_cost_usd": parsed.session_cost_usd,
        "max_hours": parsed.session_hours,
    }
    own = ("jobs", "ray", "lease_seconds", "stop_after", "shortest_first")
    own += ("session_cost_usd", "session_hours")
    return read_batch(
        Path(parsed.jobs),
        flag_values(parsed, not_settings=(*NOT_SETTINGS, *own)),
        environ,
        preset=parsed.preset or environ.get("TENNER_PRESET"),
        options={key: value for key, value in options.items() if value is not None},
    )


def _batch(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.queue.queue import run_batch

    batch = _read_batch(parsed, environ)

    def screen_of(request: Request) -> Screen:
        return _run_screen(parsed, request)

    if parsed.dry_run:
        from tenner.cli.dry_run import price_batch

        price_batch(batch, environ, gpu=parsed.gpu, as_json=parsed.json)
        return ExitCode.DELIVERED
    if parsed.ray:
        from tenner.queue.cluster.driver import run_on_ray

        return run_on_ray(batch, parsed.ray, environ, screen_of, lease_seconds=parsed.lease_seconds)
    return run_batch(batch, environ, screen_of)


def _inspect(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.cli.inspect_lora import run_inspect

    return run_inspect(Path(parsed.file), parsed.base, environ, as_json=parsed.json)


def _demo(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.cli.demo import run_demo

    return run_demo(Path(parsed.output_dir), parsed.device, environ, quiet=parsed.quiet)


def _status(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.cli.status import print_status

    del environ
    print_status(Path(parsed.run), as_json=parsed.json)
    return 0


def _deliver(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.cli.deliver import deliver_again

    for_civitai = parsed.deliver_for == "civitai"
    deliver_again(
        Path(parsed.run),
        tuple(parsed.destinations),
        environ,
        for_civitai=for_civitai,
        quiet=parsed.quiet,
    )
    return ExitCode.DELIVERED


def _serve(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.serve import serve_run

    flags = flag_values(parsed, not_settings=NOT_SETTINGS)
    request = load_request(flags, environ, read_default_config=False)
    serve_run(Path(parsed.run), request.settings, environ)
    return 0


def _completion(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    import shtab

    del environ
    print(shtab.complete(make_parser(explained=True), parsed.shell))
    return 0


def _version(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    del parsed, environ
    print(f"tenner {__version__}")
    print(f"sd-scripts {facts.pinned_commit()} (the commit whose options it knows)")
    return 0


_WRITES_TEMPORARY_FILES = ("train", "plan", "check", "batch", "demo", "deliver")
_COMMANDS = {
    "train": _train,
    "plan": _plan,
    "doctor": _doctor,
    "check": _check,
    "caption": _caption,
    "batch": _batch,
    "inspect": _inspect,
    "demo": _demo,
    "status": _status,
    "deliver": _deliver,
    "serve": _serve,
    "completion": _completion,
    "version": _version,
}


def _print_outcome(result: "Result") -> None:
    """Print the end of a delivered run: where everything is."""
    print(f"trained {result.num_steps} steps in {duration(result.seconds)}")
    print(f"  LoRA    {result.weights} ({size_words(result.num_bytes)})")
    if result.samples:
        print(f"  samples {result.samples}")
    print(f"  report  {result.report}")
    for each in result.delivered_to:
        print(f"  delivered and verified: {each}")

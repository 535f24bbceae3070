"""The door: arguments and environment in, an exit code out.

Imports of the rooms are made by the command that needs them, so that `--help` and `plan` answer
at once.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tenner import __version__
from tenner.engines.sd_scripts import facts
from tenner.errors import ExitCode, Problem, TennerError
from tenner.flags import add_other_flags, add_setting_flags, flag_values
from tenner.screen import Screen, duration, make_screen
from tenner.secrets import redact_shapes
from tenner.settings import Request, load_request

if TYPE_CHECKING:
    from tenner.pipeline import Outcome

COMMANDS = {
    "train": "check everything, train, draw samples, deliver, verify",
    "plan": "steps, batch, memory, hours and dollars, before anything is rented",
    "doctor": "look at the card, the driver, the trainer, memory and disks of this machine",
    "check": "look at every image and caption, and say what is wrong",
    "caption": "draft captions with a tagger, never over one that you wrote",
    "batch": "train many LoRAs in one session: a folder of settings, a list of jobs, a sweep",
    "demo": "train a real LoRA on the built-in tiny base, on this machine, in minutes",
    "status": "how far a run is, what it has cost, and where its result lies",
    "deliver": "deliver a finished run again",
    "serve": "show a run's page on a port, while it trains or after",
    "version": "versions of tenner and what it works with",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program. Returns the exit code of `tenner.errors.ExitCode`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        make_parser().print_help()
        return ExitCode.SETTINGS
    parsed = make_parser(arguments).parse_args(arguments)
    try:
        return _COMMANDS[parsed.command](parsed, os.environ)
    except TennerError as error:
        _tell(error.problems)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return ExitCode.STOPPED


def make_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The whole command line; flags among `words` that are no settings are let in, to be judged."""
    parser = argparse.ArgumentParser(
        prog="tenner",
        description="Train a Stable Diffusion LoRA for under ten dollars, and never lose a run.",
        epilog="Exit codes: 0 delivered and verified, 2 settings, 3 dataset, 4 machine,"
        " 5 training, 6 trained but not delivered, 7 budget reached, 143 stopped by a signal.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, says in COMMANDS.items():
        command = commands.add_parser(name, help=says, description=says, allow_abbrev=False)
        _ARGUMENTS.get(name, _no_arguments)(command)
        if name in _JOB_COMMANDS and words[:1] == [name]:
            add_other_flags(command, words[1:])
    return parser


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="?", help="settings file (TOML); default ./training_config.toml"
    )
    parser.add_argument("--config", "--config_file", dest="config_flag", help=argparse.SUPPRESS)
    parser.add_argument("--preset", help="start from a packaged preset")
    add_setting_flags(parser)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument(
        "--restart", action="store_true", help="start afresh; a run that is there is kept aside"
    )


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument(
        "--gpu",
        action="append",
        metavar="NAME",
        help="plan for a card that is not here, such as 'RTX 4090' or A100-40; may be said"
        " several times, or 'all', to compare what they cost",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--page", metavar="FILE", help="write a contact sheet of all images")


def _caption_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="folder of images")
    parser.add_argument(
        "--with",
        dest="kind",
        choices=("wd14", "blip"),
        default="wd14",
        help="wd14: tags, as for anime and drawn models; blip: a sentence, as for photos [wd14]",
    )
    parser.add_argument("--model", metavar="FOLDER", help="the model's files, instead of fetching")
    parser.add_argument("--trigger", help="first in each caption [the name in 10_name]")
    parser.add_argument(
        "--output", metavar="FOLDER", help="write captions there, not beside images"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="also over captions that a human wrote"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.35, help="wd14: how likely a tag must be [0.35]"
    )
    parser.add_argument(
        "--character_threshold", type=float, default=0.85, help="the same for characters [0.85]"
    )
    parser.add_argument("--leave_out", default="", metavar="TAGS", help="wd14: tags, by commas")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _batch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "jobs", metavar="JOBS", help="folder of settings files, or a TOML with [[jobs]] or [sweep]"
    )
    parser.add_argument("--preset", help="start every job from a packaged preset")
    session = parser.add_argument_group("The session")
    session.add_argument("--stop-after", metavar="N", help="start no further job after N failures")
    session.add_argument(
        "--shortest-first", action="store_const", const=True, help="train the shortest job first"
    )
    session.add_argument(
        "--session-cost-usd", metavar="USD", help="most that all jobs together may cost"
    )
    session.add_argument(
        "--session-hours", metavar="H", help="longest that all jobs together may take"
    )
    session.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="hand the jobs to a Ray cluster (auto, host:port), or to all cards of this machine",
    )
    session.add_argument(
        "--lease-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="with --ray: how long a machine that is lost keeps its jobs from others [60]",
    )
    add_setting_flags(parser)


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="./output", help="where runs would be kept")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="./demo", help="where the demo run is kept")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="directory of the run")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _deliver_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="directory of the run")
    parser.add_argument("--destinations", nargs="+", default=[], metavar="URL")


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="directory of the run")
    parser.add_argument("--serve_host", "--host", help="address to listen at [127.0.0.1]")
    parser.add_argument("--serve_port", "--port", help="port; 0 takes a free one [8321]")
    parser.add_argument("--serve_names", nargs="+", help="host names under which it is reached")


_ARGUMENTS = {
    "train": _train_arguments,
    "plan": _plan_arguments,
    "doctor": _doctor_arguments,
    "check": _check_arguments,
    "caption": _caption_arguments,
    "batch": _batch_arguments,
    "demo": _demo_arguments,
    "status": _status_arguments,
    "deliver": _deliver_arguments,
    "serve": _serve_arguments,
}
_JOB_COMMANDS = ("train", "plan", "check")
_NOT_SETTINGS = (
    *("command", "run", "restart", "config", "config_flag", "preset"),
    *("json", "strict", "page", "gpu"),
)


def _request(parsed: argparse.Namespace, environ: Mapping[str, str]) -> Request:
    """The settings of a job. A folder given in place of the settings file is the dataset."""
    flags = flag_values(parsed, not_settings=_NOT_SETTINGS)
    named = parsed.config or parsed.config_flag
    if named and Path(named).is_dir():
        flags.setdefault("dataset", named)
        named = None
    return load_request(flags, environ, config=Path(named) if named else None, preset=parsed.preset)


def _train(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.pipeline import AlreadyDelivered, run

    request = _request(parsed, environ)
    screen = make_screen(price_per_hour=request.settings.price_per_hour)
    outcome = run(request, environ, screen, restart=parsed.restart)
    if isinstance(outcome, AlreadyDelivered):
        print(f"this run was delivered before, to {', '.join(outcome.delivered_to)}")
        print("  nothing was trained; --restart starts it afresh")
        return ExitCode.DELIVERED
    _tell_outcome(outcome)
    return ExitCode.DELIVERED


def _plan(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.planning import print_comparison, print_plan

    if parsed.gpu:
        print_comparison(_request(parsed, environ), environ, parsed.gpu, as_json=parsed.json)
        return 0
    print_plan(_request(parsed, environ), environ, as_json=parsed.json)
    return 0


def _doctor(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.doctor import run_doctor

    return run_doctor(environ, output_dir=Path(parsed.output_dir), as_json=parsed.json)


def _check(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.checking import run_check

    return run_check(
        _request(parsed, environ),
        environ,
        as_json=parsed.json,
        strict=parsed.strict,
        page=Path(parsed.page) if parsed.page else None,
    )


def _caption(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.captioning.command import CaptionRequest, draft_captions, summary
    from tenner.events import Phase

    request = CaptionRequest(
        folder=Path(parsed.folder),
        kind=parsed.kind,
        model=Path(parsed.model) if parsed.model else None,
        trigger=parsed.trigger,
        output=Path(parsed.output) if parsed.output else None,
        overwrite=parsed.overwrite,
        threshold=parsed.threshold,
        character_threshold=parsed.character_threshold,
        left_out=tuple(tag.strip() for tag in parsed.leave_out.split(",") if tag.strip()),
        device=parsed.device,
    )
    with make_screen() as screen:
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


def _batch(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.batch.jobs import read_batch
    from tenner.batch.queue import run_batch

    said = {
        "stop_after": parsed.stop_after,
        "shortest_first": parsed.shortest_first,
        "max_cost_usd": parsed.session_cost_usd,
        "max_hours": parsed.session_hours,
    }
    own = ("jobs", "ray", "lease_seconds", "stop_after", "shortest_first")
    own += ("session_cost_usd", "session_hours")
    batch = read_batch(
        Path(parsed.jobs),
        flag_values(parsed, not_settings=(*_NOT_SETTINGS, *own)),
        environ,
        preset=parsed.preset or environ.get("TENNER_PRESET"),
        options={key: value for key, value in said.items() if value is not None},
    )

    def screen_of(request: Request) -> Screen:
        return make_screen(price_per_hour=request.settings.price_per_hour)

    if parsed.ray:
        from tenner.cluster.driver import run_on_ray

        return run_on_ray(batch, parsed.ray, environ, screen_of, lease_seconds=parsed.lease_seconds)
    return run_batch(batch, environ, screen_of)


def _demo(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.demo import run_demo

    return run_demo(Path(parsed.output_dir), parsed.device, environ)


def _status(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.status import print_status

    del environ
    print_status(Path(parsed.run), as_json=parsed.json)
    return 0


def _deliver(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.redelivery import deliver_again

    deliver_again(Path(parsed.run), tuple(parsed.destinations), environ)
    return ExitCode.DELIVERED


def _serve(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from tenner.serve import serve_run

    flags = flag_values(parsed, not_settings=_NOT_SETTINGS)
    request = load_request(flags, environ, read_default_config=False)
    serve_run(Path(parsed.run), request.settings, environ)
    return 0


def _version(parsed: argparse.Namespace, environ: Mapping[str, str]) -> int:
    del parsed, environ
    print(f"tenner {__version__}")
    print(f"sd-scripts {facts.pinned_commit()} (the commit whose options it knows)")
    return 0


_COMMANDS = {
    "train": _train,
    "plan": _plan,
    "doctor": _doctor,
    "check": _check,
    "caption": _caption,
    "batch": _batch,
    "demo": _demo,
    "status": _status,
    "deliver": _deliver,
    "serve": _serve,
    "version": _version,
}


def _tell_outcome(outcome: "Outcome") -> None:
    """The last words of a good run: where everything is."""
    weights = outcome.trained.weights
    print(f"trained {outcome.trained.step} steps in {duration(outcome.seconds)}")
    print(f"  LoRA    {weights.path} ({weights.num_bytes / 1e6:.1f} MB)")
    if outcome.drawn and outcome.drawn.grid:
        print(f"  samples {outcome.drawn.grid}")
    print(f"  report  {outcome.place.report}")
    for each in outcome.delivered.at:
        print(f"  delivered and verified: {each.destination}")


def _tell(problems: Sequence[Problem]) -> None:
    screen = make_screen()
    for problem in problems:
        screen.problem(
            Problem(
                text=redact_shapes(problem.text),
                fix=redact_shapes(problem.fix),
                level=problem.level,
            )
        )

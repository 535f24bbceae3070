"""The command line: each command's name, description and arguments."""

import argparse
import itertools
import os
from collections.abc import Sequence

from tenner.cli.flags import add_other_flags, add_setting_flags, known_flags
from tenner.cli.positional import base_and_dataset
from tenner.core.errors import SettingsError
from tenner.core.messages import msg
from tenner.core.suggest import nearest_name

COMMANDS = {
    "train": "check everything, train, draw samples, deliver, verify",
    "plan": "steps, batch, memory, hours and dollars, before anything is rented",
    "doctor": "look at the card, the driver, the trainer, memory and disks of this machine",
    "check": "look at every image, caption and setting, and report what is wrong",
    "caption": "draft captions with a tagger, never over one that you wrote",
    "batch": "train many LoRAs in one session: a folder of settings, a list of jobs, a sweep",
    "inspect": "what a LoRA file is, who reads it, and whether it learnt anything",
    "demo": "train a real LoRA on the built-in tiny base, on this machine, in minutes",
    "status": "how far a run is, what it has cost, and where its result is",
    "deliver": "deliver a finished run again",
    "serve": "show a run's page on a port, while it trains or after",
    "completion": "completion of commands, flags and files for a shell",
    "version": "versions of tenner and what it works with",
}


def parse_command_line(words: Sequence[str]) -> argparse.Namespace:
    """The arguments in `words`. Flags are read with dashes and with underscores alike.

    Raises SettingsError for a command that there is not, and for ambiguous names;
    argparse exits by itself on `--help` and on arguments that a command does not take.
    """
    words = _as_command(_with_command_first(words))
    if words and words[0] not in COMMANDS and not words[0].startswith("-"):
        raise _no_such_command(words[0])
    parser, command = _parsers(words)
    if command is None:
        return parser.parse_args(words)
    known = known_flags(command)
    spelled = [words[0], *(_as_known(word, known) for word in words[1:])]
    if words[0] not in _JOB_COMMANDS:
        return parser.parse_args(spelled)
    add_other_flags(command, spelled[1:])
    parsed, further = parser.parse_known_args(spelled)
    if any(word.startswith("-") for word in further):
        command.error(f"unrecognized arguments: {' '.join(further)}")
    if further:
        _set_base_and_dataset(parsed, [parsed.config, *further])
    return parsed


def make_parser(*, explained: bool = False) -> argparse.ArgumentParser:
    """The whole command line, every command with all its arguments, for completion and for the
    manual page; with `explained` each setting has its text."""
    parser = _main_parser()
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        _add_arguments(command, name, explained=explained)
    return parser


def print_help() -> None:
    """Print what the program is and its commands."""
    _parsers(())[0].print_help()


def _parsers(
    words: Sequence[str],
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None]:
    """The command line with the arguments of the one command that `words` name, and its parser:
    adding the settings of all others would only take time."""
    parser = _main_parser()
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    named = None
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if words[:1] == [name]:
            named = command
            explained = bool({"-h", "--help"}.intersection(words))
            _add_arguments(command, name, explained=explained)
    return parser, named


def _main_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tenner",
        description="Train a Stable Diffusion LoRA for under ten dollars, and never lose a run.",
        epilog="Exit codes: 0 delivered and verified, 2 settings, 3 dataset, 4 machine,"
        " 5 training, 6 trained but not delivered, 7 budget reached, 70 a fault of"
        " tenner's own, 143 stopped by a signal.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-V", "--version", action="store_true", help="versions, as `tenner version` prints them"
    )
    return parser


def _add_arguments(command: argparse.ArgumentParser, name: str, *, explained: bool) -> None:
    if name in _ARGUMENTS:
        _ARGUMENTS[name](command)
    if name not in _COMMANDS_OF_A_RUN:
        command.add_argument("-q", "--quiet", action="store_true", help=_QUIET)
    if name in _SETTINGS_COMMANDS:
        add_setting_flags(command, explained=explained)


def _as_command(words: Sequence[str]) -> list[str]:
    """`-V`, `--version` and `help [COMMAND]` as the commands that they mean."""
    match list(words):
        case [("-V" | "--version"), *_]:
            return ["version"]
        case ["help"]:
            return ["--help"]
        case ["help", name, *_]:
            return [name, "--help"]
        case same:
            return same


def _with_command_first(words: Sequence[str]) -> list[str]:
    """Options before the command are moved behind it: `--quiet plan` is `plan --quiet`.

    Raises SettingsError for one that is not the same for every command, as it may take a value.
    """
    common = len(list(itertools.takewhile(_GLOBAL_OPTIONS.__contains__, words)))
    if words[common : common + 1] and words[common] in _AS_COMMANDS:
        return list(words[common:])
    options = list(itertools.takewhile(lambda word: word.startswith("-"), words))
    command = next((word for word in words if word in COMMANDS), None)
    if command is None or not options or {"-h", "--help"}.intersection(options):
        return list(words)
    for option in options:
        if option not in _GLOBAL_OPTIONS:
            raise SettingsError(
                msg("{option} must come after the command", option=option),
                fix=msg("write: tenner {command} … {option} …", command=command, option=option),
            )
    rest = words[len(options) :]
    return [*rest[:1], *options, *rest[1:]]


def _set_base_and_dataset(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    """What several words mean, as in `plan flux photos/`: a base, and what is trained on.

    Raises SettingsError.
    """
    base, parsed.config = base_and_dataset(words, command=parsed.command)
    if parsed.base_model not in (None, base):
        raise SettingsError(
            msg(
                "the base is given twice: {base} and --base_model {flag}",
                base=base,
                flag=parsed.base_model,
            ),
            fix=msg("keep one of them"),
        )
    parsed.base_model = base


def _no_such_command(word: str) -> SettingsError:
    fix = msg("commands are: {names}", names=", ".join(COMMANDS))
    if meant := nearest_name(word, COMMANDS, least=60):
        fix = msg("did you mean `tenner {meant}`?", meant=meant)
    elif os.path.exists(word) or "://" in word:  # noqa: PTH110 a word may be no valid path
        fix = msg("to train on it: tenner train {path}", path=word)
    return SettingsError(msg("there is no command {word}", word=word), fix=fix)


def _as_known(word: str, known: frozenset[str]) -> str:
    """A flag that is known with dashes where it has underscores, or the other way round."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--") or flag in known:
        return word
    for spelling in ("--" + flag[2:].replace("-", "_"), "--" + flag[2:].replace("_", "-")):
        if spelling in known:
            return f"{spelling}{equals}{value}"
    return word


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="?",
        metavar="DATASET_OR_SETTINGS",
        help="a dataset (folder, archive, s3://, https://, hf://) or a settings file (TOML);"
        " default ./training_config.toml; a base's name may stand before it",
    )
    parser.add_argument("--config", "--config_file", dest="config_flag", help=argparse.SUPPRESS)
    parser.add_argument("--preset", help="start from a packaged preset")


def _output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help=_QUIET)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print each event and the result as a line of JSON; text for people goes to stderr",
    )


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start over; an earlier run is moved to another folder",
    )
    _output_arguments(parser)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument(
        "--gpu",
        action="append",
        metavar="NAME",
        help="plan for a card that is not here, such as 'RTX 4090' or A100-40; may be given"
        " several times or with commas, or 'all', to compare what they cost",
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
        choices=("auto", "wd14", "qwen", "blip"),
        default="auto",
        help="wd14: tags, as for anime models; qwen: sentences, as for photos; blip: one short"
        " sentence, from a smaller model [auto: by --base_model, or tags without it]",
    )
    parser.add_argument(
        "--base_model", "--base-model", metavar="BASE", help="what the captions will train"
    )
    parser.add_argument("--prompt", help="qwen: what to describe, in your own words")
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
    parser.add_argument(
        "--leave_out", default="", metavar="WORDS", help="tags or words to leave out, by commas"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _batch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "jobs", metavar="JOBS", help="folder of settings files, or a TOML with [[jobs]] or [sweep]"
    )
    parser.add_argument("--preset", help="start every job from a packaged preset")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="plan and price all jobs, without training any of them",
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help="with --dry-run: for this card, such as 'RTX 4090'"
    )
    _output_arguments(parser)
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


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="a LoRA's .safetensors file, or a folder of PEFT or diffusers"
    )
    parser.add_argument(
        "--base", metavar="NAME", help="the base that it adapts, to compare its size with"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="./output", help="the folder that runs would be in")
    parser.add_argument(
        "--base_model",
        default="",
        metavar="NAME",
        help="a base to look at too; one that is elsewhere is known by the heads of its files",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="./demo", help="the folder of the demo's run")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="directory of a run, or NAME.batch")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _deliver_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="directory of the run")
    parser.add_argument("--destinations", nargs="+", default=[], metavar="URL")
    parser.add_argument(
        "--deliver_for", choices=("civitai",), help="pack NAME-civitai.zip, and deliver it too"
    )


def _completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="directory of a run, or NAME.batch")
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
    "inspect": _inspect_arguments,
    "demo": _demo_arguments,
    "status": _status_arguments,
    "deliver": _deliver_arguments,
    "serve": _serve_arguments,
    "completion": _completion_arguments,
}
_JOB_COMMANDS = ("train", "plan", "check")
_COMMANDS_OF_A_RUN = ("train", "batch")
_AS_COMMANDS = ("help", "-h", "--help", "-V", "--version")
_GLOBAL_OPTIONS = ("-q", "--quiet", "--json")
_QUIET = "print errors, warnings and the result only"
_SETTINGS_COMMANDS = (*_JOB_COMMANDS, "batch")
NOT_SETTINGS = (
    *("command", "run", "restart", "config", "config_flag", "preset"),
    *("json", "strict", "page", "gpu", "quiet", "dry_run", "version"),
)

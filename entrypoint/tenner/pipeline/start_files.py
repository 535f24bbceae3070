"""Files that settings name, opened and understood before a run costs anything.

Pictures and captions are the dataset's, base models `base`'s, prompts and settings files are read
with the settings. Here are the others: the LoRA that a run starts from, the VAE, and files that
options of sd-scripts name.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tenner.base.model import Base
from tenner.core.errors import Problem, SettingsError, errors_in
from tenner.core.messages import msg
from tenner.core.safetensors_head import read_safetensors_header
from tenner.kohya.networks import LYCORIS
from tenner.lora_files import read_lora_file
from tenner.pipeline.start_weights import other_family, start_from
from tenner.planning.plan import EngineName
from tenner.rules.written import keyword_arguments
from tenner.settings import Request, Settings


def with_start_files(
    request: Request, base: Base | None, engine: EngineName | None = None
) -> Request:
    """The request with rank and alpha of the LoRA that it starts from, and what is to be reported.

    Idempotent. Raises SettingsError with all that is wrong with the files. Without `base` or
    `engine` what hangs on them is left for later.
    """
    settings = request.settings
    problems = [*_vae(settings), *_of_options(settings, base)]
    if settings.network_weights:
        try:
            found = start_from(request, settings.network_weights, base, engine)
            problems += found.problems
            settings = settings.model_copy(update=found.decided)
        except SettingsError as error:
            problems += [_of_weights(each) for each in error.problems]
        except OSError as error:
            text = msg(
                "network_weights = {network_weights}: {strerror}",
                network_weights=settings.network_weights,
                strerror=error.strerror or error,
            )
            problems.append(Problem(text=text, fix=msg("check the file")))
    problems += _preset(settings)
    if errors_in(problems):
        raise SettingsError(problems=errors_in(problems))
    notices = dict.fromkeys((*request.notices, *problems))
    return replace(request, settings=settings, notices=tuple(notices))


def _of_weights(problem: Problem) -> Problem:
    return replace(problem, text=msg("network_weights: {text}", text=problem.text))


def _vae(settings: Settings) -> Iterator[Problem]:
    if not settings.vae:
        return
    path, fix = (
        Path(settings.vae).expanduser(),
        msg("name a folder in diffusers layout or a .safetensors"),
    )
    text = f"vae = {settings.vae}"
    if not path.exists():
        yield Problem(text=msg("{text}: there is no such file or folder", text=text), fix=fix)
    elif path.is_dir():
        if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
            yield Problem(
                text=msg("{text}: it has no config.json beside .safetensors weights", text=text),
                fix=fix,
            )
    else:
        try:
            names = read_safetensors_header(path)
        except SettingsError as error:
            yield from (
                replace(each, text=msg("vae: {text}", text=each.text)) for each in error.problems
            )
            return
        parts = ("decoder.", "first_stage_model.decoder.")
        if not any(name.startswith(parts) for name in names):
            yield Problem(text=msg("{text} is no VAE: it has no decoder", text=text), fix=fix)


def _preset(settings: Settings) -> Iterator[Problem]:
    """A preset of LyCORIS in a file: the trainer would end with no word of it."""
    preset = str(keyword_arguments(settings.network_args).get("preset", ""))
    if settings.network_module != LYCORIS or not preset.endswith(".toml"):
        return
    try:
        tomllib.loads(Path(preset).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield Problem(
            text=msg(
                "network_args: preset = {preset} cannot be read: {error}",
                preset=preset,
                error=error.strerror if isinstance(error, OSError) and error.strerror else error,
            ),
            fix=msg("name the TOML file in network_args, as preset=FILE"),
        )


def _of_options(settings: Settings, base: Base | None) -> Iterator[Problem]:
    """Files that sd-scripts' own options name."""
    options = settings.engine_options
    given = options.get("base_weights")
    for each in given if isinstance(given, tuple) else ():
        try:
            lora = read_lora_file(Path(str(each)).expanduser())
            wrong = other_family(lora, base, setting="base_weights")
        except SettingsError as error:
            wrong = error.problems
        for problem in wrong:
            is_named = problem.text.startswith("base_weights")
            text = problem.text if is_named else msg("base_weights: {text}", text=problem.text)
            yield replace(problem, text=text)
    if tracker := options.get("log_tracker_config"):
        try:
            tomllib.loads(Path(str(tracker)).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            text = msg(
                "log_tracker_config = {tracker} cannot be read: {error}",
                tracker=tracker,
                error=error,
            )
            yield Problem(text=text, fix=msg("name a TOML file, or remove it"))
    if options.get("tokenizer_cache_dir"):
        text = msg("tokenizer_cache_dir is left out: the tokenizers come with tenner")
        yield Problem(text=text, level="note")

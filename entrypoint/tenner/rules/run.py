"""Rules of the run itself: paths and names, precision, what is not installed with the trainer."""

import os
import re
from collections.abc import Iterator, Mapping

from tenner.core.errors import Problem
from tenner.core.graph_obstacle import REASONS, GraphObstacle, graph_obstacle
from tenner.core.messages import Message, msg
from tenner.rules.rule import OWN, SD_SCRIPTS, Check, Rule
from tenner.rules.view import View
from tenner.rules.written import keyword_arguments

PATH_KEYS = ("base_model", "vae", "dataset", "reg_data_dir", "network_weights", "output_dir")


def windows_path(value: str) -> bool:
    """Whether `value` is a path of a Windows PC, read on a machine that is none."""
    return os.name != "nt" and bool(re.match(r"^[A-Za-z]:[\\/]|^\\\\", value))


def _windows_paths(view: View) -> Iterator[Problem]:
    for key in PATH_KEYS:
        value = view.get(key)
        if isinstance(value, str) and windows_path(value):
            yield Problem(
                text=msg(
                    "{key} = '{value}' ({source}): this is on your PC, not here",
                    key=key,
                    value=value,
                    source=view.source(key),
                ),
                fix=msg(
                    "mount it (docker run -v '{value}:/workspace/{key}') and set {key} ="
                    " '/workspace/{key}'",
                    value=value,
                    key=key,
                ),
            )


LONGEST_NAME = 180
"""Bytes of output_name: file systems hold 255, and a checkpoint's number and ending, and that of
a file that is being written, stand behind it."""
_REFUSED_IN_NAMES = '/\\:*?"<>|'
"""What a destination may not take: separators, and those that Windows and S3 tools refuse."""


def _wrong_in_name(view: View) -> str:
    """Why output_name is no name for files; empty where it is one."""
    name = view.text("output_name")
    if not name.strip() or name.strip(".") == "":
        return msg("is not a file name")
    wrong = [each for each in _REFUSED_IN_NAMES if each in name]
    if wrong:
        return msg("is not a file name: it holds {wrong}", wrong=" ".join(wrong))
    if not name.isprintable():
        return msg("is not a file name: it holds a tab, a line end or another control character")
    if name != name.strip():
        return msg("begins or ends with a space, which some file systems drop")
    if len(name.encode()) > LONGEST_NAME:
        return msg(
            "is {n} bytes long, and the names of files would be too long", n=len(name.encode())
        )
    return ""


def _control_characters(view: View) -> Iterator[Problem]:
    """In TOML a backslash between double quotes begins an escape: \t is a tab."""
    for key in PATH_KEYS:
        value = view.get(key)
        if isinstance(value, str) and any(ord(each) < 32 or ord(each) == 127 for each in value):
            yield Problem(
                text=msg(
                    "{key} = {value} ({source}) holds a control character: a backslash in"
                    " double quotes is an escape in TOML",
                    key=key,
                    value=repr(value),
                    source=view.source(key),
                ),
                fix=msg("write it with / or in single quotes: {key} = 'C:\\folder'", key=key),
            )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:57]}…")


def _needs_precision(name: str, precision: str) -> Rule:
    return Rule(
        when=lambda view: view.on(name) and view.get("mixed_precision") != precision,
        text=msg("{name} needs mixed_precision = {precision}", name=name, precision=precision),
        fix=msg(
            'set mixed_precision = "{precision}", or remove {name}', precision=precision, name=name
        ),
        trainers=SD_SCRIPTS,
    )


_GRAPH_FIXES: Mapping[GraphObstacle, Message] = {
    "no card": msg("remove it, or device"),
    "module_dropout": msg("remove module_dropout from network_args, or cuda_graphs"),
    "recomputed dropouts": msg("remove the dropouts, or cuda_graphs"),
    "torch_compile": msg("remove one of them"),
}


def _no_graphs(view: View) -> Iterator[Problem]:
    given = keyword_arguments(view.words("network_args"))
    obstacle = graph_obstacle(
        on_card=view.get("device") != "cpu",
        module_dropout=bool(given.get("module_dropout")),
        dropouts=any(
            (given.get(name) or view.get(name)) not in (None, 0) for name in _DRAWN_ON_THE_CARD
        ),
        gradient_checkpointing=view.on("gradient_checkpointing"),
        torch_compile=view.on("torch_compile"),
    )
    if view.on("cuda_graphs") and obstacle is not None:
        text = msg("cuda_graphs has no effect: {reason}", reason=REASONS[obstacle])
        yield Problem(text=text, fix=_GRAPH_FIXES[obstacle], level="warning")


_DRAWN_ON_THE_CARD = ("network_dropout", "dropout", "rank_dropout")

RULES = (
    Check(find=_windows_paths, needs="settings"),
    Check(find=_control_characters, needs="settings"),
    Rule(
        when=lambda view: bool(_wrong_in_name(view)),
        text=lambda view: msg(
            "output_name = {shown} {wrong_in_name}",
            shown=_shown(view.text("output_name")),
            wrong_in_name=_wrong_in_name(view),
        ),
        fix=msg(
            "use letters, digits, - and _, at most {longest_name}; the folder goes into output_dir",
            longest_name=LONGEST_NAME,
        ),
        needs="settings",
    ),
    _needs_precision("full_fp16", "fp16"),
    _needs_precision("full_bf16", "bf16"),
    Rule(
        when=lambda view: (
            view.any_on("fp8_base", "fp8_base_unet") and view.get("mixed_precision") == "no"
        ),
        text=msg("fp8_base needs mixed_precision = fp16 or bf16"),
        fix=msg('set mixed_precision = "bf16", or remove fp8_base'),
        trainers=SD_SCRIPTS,
    ),
    Rule(
        when=lambda view: (
            view.on("cpu_offload_checkpointing") and view.family in (None, "sd1", "sd2", "sdxl")
        ),
        text=msg("cpu_offload_checkpointing stops with an error on SD and SDXL"),
        fix=msg("remove it; gradient_checkpointing = true saves the most"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.on("deepspeed"),
        text=msg("deepspeed is not installed with the trainer, and a LoRA needs none of it"),
        fix=msg("remove deepspeed; set num_processes for several cards"),
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.on("cuda_graphs"),
        text=msg("cuda_graphs has no effect with sd-scripts"),
        fix=msg("train with the built-in trainer (engine = 'native'), or remove cuda_graphs"),
        level="warning",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Check(find=_no_graphs, trainers=OWN),
    Rule(
        when=lambda view: view.on("mem_eff_attn"),
        text=msg("mem_eff_attn replaces xformers and sdpa, and is slower than both"),
        fix=msg("remove mem_eff_attn"),
        level="warning",
        trainers=SD_SCRIPTS,
    ),
)

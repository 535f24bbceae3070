"""Rules of the run itself: paths and names, precision, what is not installed with the trainer."""

import os
import re
from collections.abc import Iterator

from tenner.errors import Problem
from tenner.rules.rule import SD_SCRIPTS, Check, Rule
from tenner.rules.view import View

PATH_KEYS = ("base_model", "vae", "dataset", "reg_data_dir", "network_weights", "output_dir")


def windows_path(value: str) -> bool:
    """Whether `value` is a path of a Windows PC, read on a machine that is none."""
    return os.name != "nt" and bool(re.match(r"^[A-Za-z]:[\\/]|^\\\\", value))


def _windows_paths(view: View) -> Iterator[Problem]:
    for key in PATH_KEYS:
        value = view.get(key)
        if isinstance(value, str) and windows_path(value):
            yield Problem(
                text=f"{key} = '{value}' ({view.source(key)}): this is on your PC, not here",
                fix=f"mount it (docker run -v '{value}:/workspace/{key}') and set"
                f" {key} = '/workspace/{key}'",
            )


def _is_no_file_name(view: View) -> bool:
    name = view.text("output_name")
    return not name.strip() or "/" in name or "\\" in name or name.strip(".") == ""


def _needs_precision(name: str, precision: str) -> Rule:
    return Rule(
        when=lambda view: view.on(name) and view.get("mixed_precision") != precision,
        text=f"{name} needs mixed_precision = {precision}",
        fix=f'set mixed_precision = "{precision}", or remove {name}',
        trainers=SD_SCRIPTS,
    )


RULES = (
    Check(find=_windows_paths, needs="settings"),
    Rule(
        when=_is_no_file_name,
        text=lambda view: f"output_name = '{view.text('output_name')}' is not a file name",
        fix="use letters, digits, - and _; the folder goes into output_dir",
        needs="settings",
    ),
    _needs_precision("full_fp16", "fp16"),
    _needs_precision("full_bf16", "bf16"),
    Rule(
        when=lambda view: (
            view.any_on("fp8_base", "fp8_base_unet") and view.get("mixed_precision") == "no"
        ),
        text="fp8_base needs mixed_precision = fp16 or bf16",
        fix='set mixed_precision = "bf16", or remove fp8_base',
        trainers=SD_SCRIPTS,
    ),
    Rule(
        when=lambda view: view.on("cpu_offload_checkpointing"),
        text="cpu_offload_checkpointing stops with an error on SD and SDXL",
        fix="remove it; gradient_checkpointing = true saves the most",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.on("deepspeed"),
        text="deepspeed is not installed with the trainer, and a LoRA needs none of it",
        fix="remove deepspeed; say num_processes for several cards",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.get("log_with") in ("wandb", "all"),
        text="wandb is not installed with the trainer",
        fix="remove log_with: the TensorBoard log and the report are kept anyway",
        trainers=SD_SCRIPTS,
        needs="trainer",
    ),
    Rule(
        when=lambda view: view.on("mem_eff_attn"),
        text="mem_eff_attn takes the place of xformers and sdpa, and is slower than both",
        fix="remove mem_eff_attn",
        level="warning",
        trainers=SD_SCRIPTS,
    ),
)

"""`tenner inspect`: what a LoRA file is, on what it was trained, and whether it learnt anything."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tenner.core.errors import ExitCode, Problem
from tenner.core.network_parts import PART_NAMES, Part
from tenner.library.inspecting import inspect
from tenner.lora_files.measured import Measured, PartMeasure
from tenner.lora_files.programs import KIND_NAMES, NAMING_NAMES, read_by
from tenner.lora_files.provenance import trained_on
from tenner.lora_files.reading import LoraFile


def run_inspect(
    path: Path, base_name: str | None, environ: Mapping[str, str], *, as_json: bool
) -> ExitCode:
    """Print all that is known of the LoRA at `path`; against a base that is here, also its size.

    TRAINING (5) where it learnt nothing or holds numbers that are not finite. Raises SettingsError
    where it is no LoRA, or the base is none.
    """
    found = inspect(path, base_name, environ=environ)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
    else:
        _print(found.file, found.measured, found.problems)
    return ExitCode.DELIVERED if found.is_sound else ExitCode.TRAINING


def _print(file: LoraFile, measured: Measured | None, problems: Sequence[Problem]) -> None:
    """Print the file's form, each part's measures, who reads the file, and the problems."""
    kinds = ", ".join(KIND_NAMES[kind] for kind in file.kinds)
    dtypes = ", ".join(f"{name} ({number})" for name, number in file.dtypes.items())
    print(f"{file.path.name}: {kinds} for {file.architecture}, {file.num_bytes / 1e6:,.1f} MB")
    source = f" (by {file.family_from})" if file.family_from else ""
    rows = {
        "family": f"{file.family or 'none that tenner trains'}{source}",
        "names": f"as {NAMING_NAMES[file.naming]} writes them",
        "rank": _rank_words(file, convolutions=False),
        "rank of convolutions": _rank_words(file, convolutions=True),
        "tensors": dtypes,
    }
    measures: dict[Part, PartMeasure] = {}
    for measure in measured.parts if measured else ():
        measures[measure.part] = measure
    for part, modules in file.parts.items():
        rows[PART_NAMES[part]] = _part_words(part, len(modules), measures)
    for name, value in rows.items():
        if value:
            print(f"  {name:22} {value}")
    print("read by")
    for each in read_by(file):
        print(f"  {each.program:26} {'no: ' + each.why_not if each.why_not else 'yes'}")
    trained = trained_on(file.metadata)
    print(
        "trained on, by the file's metadata"
        if trained
        else "the file does not name what it was trained on"
    )
    for name, value in trained.items():
        print(f"  {name:22} {value[:300]}")
    for each in problems:
        fix = f" (fix: {each.fix})" if each.fix else ""
        print(f"{each.level}: {each.text}{fix}")


def _rank_words(file: LoraFile, *, convolutions: bool) -> str:
    ranks = file.ranks(convolutions=convolutions)
    if not ranks:
        return ""
    alphas = file.alphas(convolutions=convolutions)
    return f"{', '.join(map(str, ranks))}, alpha {', '.join(f'{alpha:g}' for alpha in alphas)}"


def _part_words(part: Part, num_modules: int, measures: Mapping[Part, PartMeasure]) -> str:
    measure = measures.get(part)
    if measure is None:
        return f"{num_modules} modules"
    words = [f"{num_modules} modules"]
    if measure.num_unchanged:
        words.append(f"{measure.num_unchanged} of them zero")
    if measure.num_measured:
        words.append(f"‖ΔW‖ {measure.norm:.4g}")
    if measure.ratio is not None:
        words.append(f"{measure.ratio:.2g} of the base's weights")
    return ", ".join(words)

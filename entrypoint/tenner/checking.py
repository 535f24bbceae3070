"""`tenner check`: the dataset judged as the training would take it, on any machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tenner.base_model import find_local_base
from tenner.dataset import Dataset, inspect_dataset
from tenner.errors import ExitCode
from tenner.events import Phase
from tenner.preparation import MODELS_DIR, dataset_request
from tenner.screen import make_screen
from tenner.settings import Request
from tenner.tiny import base_dir

_USUAL_SIDE = {"sd15": 512, "sdxl": 1024}


def check(request: Request, environ: Mapping[str, str], *, as_json: bool, strict: bool) -> ExitCode:
    """Judge the dataset and print what was found. The base need not be here.

    Raises DatasetError with everything that forbids training on it.
    """
    settings = request.settings
    models_dir = Path(environ.get("TENNER_MODELS_DIR") or MODELS_DIR)
    base = find_local_base(settings.base_model, models_dir=models_dir, tiny_dir=base_dir())
    side = base.resolution if base else _USUAL_SIDE.get(settings.base_model, 512)
    screen = make_screen()
    with TemporaryDirectory(prefix="tenner-check-") as folder, screen:
        dataset = inspect_dataset(
            dataset_request(settings, base, settings.resolution or (side, side), environ),
            Path(folder),
            lambda done, total: screen.show(
                Phase(name="check", detail="images decoded", done=done, total=total)
            ),
        )
    if as_json:
        print(json.dumps(dataset.to_json(), ensure_ascii=False, indent=1))
    else:
        for problem in dataset.problems:
            screen.problem(problem)
        for note in (*dataset.left_out, *dataset.mended):
            screen.say(f"  {note.path}: {note.why}")
        print(_headline(dataset))
    bad = strict and any(problem.level == "warning" for problem in dataset.problems)
    return ExitCode.DATASET if bad else ExitCode.DELIVERED


def _headline(dataset: Dataset) -> str:
    buckets = ", ".join(
        f"{width}×{height}: {count}"
        for (width, height), count in sorted(dataset.images_by_bucket().items())
    )
    trigger = f"trigger '{dataset.trigger}'" if dataset.trigger else "no trigger"
    return (
        f"{dataset.num_images} images, {dataset.num_captions} captions, {trigger},"
        f" {dataset.num_image_passes} images seen in an epoch ({buckets})"
    )

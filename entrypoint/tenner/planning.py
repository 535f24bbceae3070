"""`tenner plan`: what a run would do, told before anything is paid for."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tenner.plan import plan_json
from tenner.preparation import Prepared, prepare
from tenner.screen import make_screen
from tenner.settings import Request


def print_plan(request: Request, environ: Mapping[str, str], *, as_json: bool) -> None:
    """Print the plan. Raises TennerError where the run could not start."""
    screen = make_screen()
    with TemporaryDirectory(prefix="tenner-plan-") as folder:
        prepared = prepare(
            request,
            environ,
            Path(folder),
            on_stage=lambda name, detail: None,
            on_image=lambda done, total: None,
        )
        if as_json:
            print(json.dumps(plan_json(prepared.plan), ensure_ascii=False, indent=1))
            return
        for notice in prepared.plan.notices:
            screen.problem(notice)
        print(_headline(prepared))
        width = max(len(choice.name) for choice in prepared.plan.choices)
        for choice in prepared.plan.choices:
            print(f"  {choice.name:<{width}}  {choice.value}  ({choice.reason})")


def _headline(prepared: Prepared) -> str:
    plan, dataset = prepared.plan, prepared.dataset
    return (
        f"{plan.output_name}: {plan.length.num_steps} steps over {dataset.num_images} images"
        f" ({dataset.num_image_passes} seen in an epoch), base {plan.base.name}"
    )

"""What the jobs of a batch share: each dataset is prepared once, and so is each job's plan.

A plan is made before anything is on the card, so that models that a batch holds loaded there do not
count as another program's memory.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tenner.core.errors import DatasetError, TennerError
from tenner.core.event_log import read_event_lines
from tenner.core.messages import msg
from tenner.dataset import Dataset, DatasetRequest, inspect_dataset
from tenner.hardware.prices import Price
from tenner.pipeline.preflight import Inspect, OnImage, Preflight, Trials, prepare
from tenner.planning.prepared import Prepared
from tenner.runs.session import NO_PROGRESS, Progress
from tenner.settings import Request
from tenner.storage.http import OnBytes


@dataclass(kw_only=True)
class SharedDatasets:
    """Inspects each dataset once; its working copy is in `folder`, for all jobs with the same
    request."""

    folder: Path
    _found: dict[DatasetRequest, Dataset | DatasetError] = field(
        default_factory=dict[DatasetRequest, Dataset | DatasetError]
    )

    def inspect(
        self,
        request: DatasetRequest,
        workdir: Path,
        on_image: OnImage,
        on_bytes: OnBytes | None,
    ) -> Dataset:
        """As `inspect_dataset`, but for `workdir`. Raises DatasetError."""
        del workdir
        if not request.validation_split:  # then the seed changes nothing: a sweep over it shares
            request = replace(request, validation_seed=0)
        if request not in self._found:
            name = hashlib.sha256(repr(request).encode()).hexdigest()[:12]
            try:
                found = inspect_dataset(request, self.folder / name, on_image, on_bytes)
            except DatasetError as error:
                found = error
            self._found[request] = found
        found = self._found[request]
        if isinstance(found, DatasetError):
            raise DatasetError(problems=found.problems)
        return found


@dataclass(kw_only=True)
class SharedPreparation:
    """Prepares each job once. `prepare` returns what `prepare_early` found, or prepares now."""

    environ: Mapping[str, str]
    inspect: Inspect
    trials: Trials = field(default_factory=Trials)
    """A card is tried once for all jobs."""
    _found: dict[tuple[str, str], Prepared] = field(default_factory=dict[tuple[str, str], Prepared])

    def prepare_early(self, request: Request, on_image: OnImage) -> Prepared:
        """All checks of a job before it runs. Raises TennerError."""
        return self.prepare(request, self.environ, Path(), progress=Progress(on_image=on_image))

    def prepare(
        self,
        request: Request,
        environ: Mapping[str, str],
        workdir: Path,
        *,
        progress: Progress = NO_PROGRESS,
        host_price: Price | None = None,
    ) -> Prepared:
        """As `tenner.pipeline.preflight.prepare`. Raises TennerError."""
        key = (request.settings.output_dir, request.settings.output_name)
        if key not in self._found:
            self._found[key] = prepare(
                request,
                environ,
                workdir,
                progress=progress,
                host_price=host_price,
                checks=Preflight(inspect=self.inspect, trials=self.trials),
            )
        return replace(self._found[key], request=request)

    def gpu_name(self, request: Request) -> str:
        """The card that a job was planned for; empty where that is a CPU or not known."""
        found = self._found.get((request.settings.output_dir, request.settings.output_name))
        return (found.plan.gpu or "") if found else ""


def last_loss(events: Path) -> tuple[float | None, int]:
    """The last mean loss in a run's log of events, and its last step."""
    loss, last = None, 0
    for line in read_event_lines(events):
        if line.get("event") == "step":
            loss, last = line.get("loss_avg", loss), int(line.get("step", last))
    return loss, last


def problems_of(error: TennerError) -> tuple[str, ...]:
    """What went wrong, each in one line with its fix."""
    return tuple(
        msg("{text} (fix: {fix})", text=each.text, fix=each.fix) if each.fix else each.text
        for each in error.problems
    )

"""Draws samples of a run's LoRA: the guide's grid at its end, chosen epochs while it trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenner.core.command import Command
from tenner.core.events import Drew, Event, Warned
from tenner.core.priority import with_low_priority
from tenner.core.run_dir import RunDir
from tenner.core.weights import ema_path
from tenner.dataset.captions import one_wording
from tenner.hardware import inspect_machine
from tenner.pipeline.early_sampler import EarlySample, EarlySampler, FreeMemory, Where, early_cells
from tenner.pipeline.fitting import tokenizers_for
from tenner.pipeline.sampling import draw, lay_out, sample_job
from tenner.planning.decision import num_cpus
from tenner.planning.plan import Plan
from tenner.planning.prepared import Prepared
from tenner.report.live_page import LivePage
from tenner.runs.context import RunContext
from tenner.runs.uploader import Uploader
from tenner.sample.cells import grid_cells, sample_prompts
from tenner.sample.job import Cell, Drawn
from tenner.supervision.guards import Guard
from tenner.supervision.supervise import Control

ENGINE_SHARE = 0.6
"""Share of the grace time that an engine or a sampler may take to end; the rest is for delivery."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Draws pictures of one LoRA file."""

    prepared: Prepared
    weights: Path
    run_dir: RunDir
    context: RunContext

    def draw(
        self,
        cells: tuple[Cell, ...],
        folder: Path,
        *,
        beside: Where | None = None,
        guards: Sequence[Guard] = (),
    ) -> Drawn | None:
        """Draw on the device that the run trains on; None, with a warning, where that failed.

        `beside` is the device to use while the training runs: then only warnings are reported, and
        a CPU gives half of its cores to the training.
        """
        prepared, context = self.prepared, self.context
        cpus = num_cpus(prepared.machine)
        job = sample_job(
            prepared,
            self.weights,
            cells,
            folder,
            device="cpu" if beside == "cpu" else prepared.plan.device,
            cpus=max(1, cpus // 2) if beside else cpus,
            tokenizers=tokenizers_for(prepared, self.run_dir),
            average=ema_path(self.weights) if any(cell.ema for cell in cells) else None,
        )
        return draw(
            job,
            python=prepared.engine.python,
            run_dir=self.run_dir,
            control=child_control(prepared, context),
            on_event=self._emit_warnings if beside else context.emit,
            launch=start_behind if beside else context.session.launch,
            guards=guards,
        )

    def _emit_warnings(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.context.emit(event)

    def draw_grid(self) -> Drawn | None:
        """The guide's grid, laid out as `samples/grid.png`; None where drawing failed."""
        prepared = self.prepared
        cells = grid_cells(prepared.settings, own_captions(prepared), prepared.dataset.trigger)
        if not ema_path(self.weights).is_file():
            cells = tuple(cell for cell in cells if not cell.ema)
        self.context.begin("sampling", f"{len(cells)} pictures")
        drawn = self.draw(cells, self.run_dir.samples / "final")
        if drawn is None:
            return None
        return lay_out(drawn, self.run_dir.samples / "grid.png", title=prepared.plan.output_name)


def start_behind(command: Command, environ: Mapping[str, str]) -> Command:
    """The command with low priority, so that it does not slow the training."""
    del environ
    return with_low_priority(command)


def own_captions(prepared: Prepared) -> list[str]:
    """The captions of the images that are learnt."""
    return [one_wording(each.caption) for each in prepared.dataset.images if not each.is_reg]


def child_control(prepared: Prepared, context: RunContext) -> Control:
    """How the run's processes are started and stopped."""
    return Control(
        environ=child_environ(prepared, context),
        stop=context.stop,
        grace_seconds=ENGINE_SHARE * context.grace_seconds,
    )


def child_environ(prepared: Prepared, context: RunContext) -> dict[str, str]:
    """What the run's processes are started with: the cards they may see, and no secret."""
    return {**context.child_environ, **prepared.machine.child_env}


def early_sampler(
    prepared: Prepared,
    plan: Plan,
    run_dir: RunDir,
    context: RunContext,
    page: LivePage,
    uploader: Uploader,
) -> EarlySampler:
    """Looks at the epochs that were requested, and shows and sends what was drawn at once."""
    settings, trigger = prepared.settings, prepared.dataset.trigger
    prompts = sample_prompts(settings, own_captions(prepared), trigger)

    def draw_checkpoint(
        weights: Path, where: Where, folder: Path, *, guards: Sequence[Guard]
    ) -> Drawn | None:
        sampler = Sampler(prepared=prepared, weights=weights, run_dir=run_dir, context=context)
        cells = early_cells(prompts, settings, where)
        return sampler.draw(cells, folder, beside=where, guards=guards)

    def on_sample(sample: EarlySample) -> None:
        page.add_samples(sample.samples)
        context.emit(Drew(path=str(sample.grid), epoch=sample.epoch, step=sample.step))
        uploader.take_checkpoint(sample.grid, f"samples/{sample.grid.name}", sample.step)

    return EarlySampler(
        settings=settings,
        plan=plan,
        run_dir=run_dir,
        free_memory=_free_memory(prepared, context),
        draw=draw_checkpoint,
        emit=context.emit,
        on_sample=on_sample,
    )


def _free_memory(prepared: Prepared, context: RunContext) -> Callable[[], FreeMemory]:
    """A function that measures the free memory of card and machine when it is called."""

    def measure() -> FreeMemory:
        environ = {**context.environ, **prepared.machine.child_env}
        now = inspect_machine(environ, num_gpus=prepared.plan.num_processes)
        return FreeMemory(
            card_mib=now.free_mib if now.has_gpu else None,
            memory_mib=now.host.free_ram_mib,
            cpus=num_cpus(now),
        )

    return measure

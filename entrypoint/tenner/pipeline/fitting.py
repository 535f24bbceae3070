"""The engine of a run, and the lighter ones that follow where the card's memory does not do."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tenner.base.hub_tokenizers import write_tokenizers
from tenner.base.tokenizers import write_clip_tokenizers
from tenner.core.command import Command
from tenner.core.files import write_json
from tenner.core.run_dir import RunDir
from tenner.core.safetensors_head import read_safetensors_header, tensor_entries
from tenner.core.temporary_files import remove_abandoned_parts
from tenner.families.transformers import T5_XXL
from tenner.pipeline.start import own_engine, sd_scripts_engine, train_items
from tenner.planning.decision import num_cpus
from tenner.planning.lighter import Trained
from tenner.planning.plan import Plan, plan_json
from tenner.planning.prepared import Prepared
from tenner.runs.ledger import LedgerBook
from tenner.runs.resume import with_options
from tenner.runs.session import Session
from tenner.supervision.captions_fallback import (
    TextEncoders,
    captions_fix,
    next_rung_for_captions,
)
from tenner.supervision.guards import DoneGuard, StopFileGuard
from tenner.supervision.oom_fallback import Rung, last_words, next_rung, next_rung_on_host
from tenner.supervision.states import rename_out_of_use, states, step_of
from tenner.supervision.training import Engine, Lighter


def engine_for(
    prepared: Prepared,
    run_dir: RunDir,
    book: LedgerBook,
    plan: Plan,
    *,
    session: Session,
    environ: Mapping[str, str],
    forget: Callable[[], None],
) -> Engine:
    """The engine that trains `plan`, its processes started as the session starts them.

    What a lighter one gives up is noted for later attempts. Where it trains another network,
    nothing of before may be resumed from, here or (`forget`) at a destination.
    """
    settings = prepared.settings
    encoders = _text_encoders(prepared)

    def lighter() -> Lighter | None:
        return lighter_by(next_rung(plan.options, settings, _transformer(prepared, plan)))

    def lighter_captions() -> Lighter | None:
        return lighter_by(next_rung_for_captions(plan.options, settings, encoders))

    def lighter_on_host() -> Lighter | None:
        on_cpu = plan.device == "cpu"
        return lighter_by(
            next_rung_on_host(plan.options, settings, engine=prepared.engine.name, on_cpu=on_cpu)
        )

    def lighter_by(rung: Rung | None) -> Lighter | None:
        if rung is None:
            return None
        changed = with_options(plan, rung.changed, prepared.dataset)
        # before it is noted: an attempt that knows of it meets no old state
        if not rung.states_fit:
            _leave_behind(run_dir, book, plan.output_name)
            forget()
        book.change(lambda ledger: replace(ledger, savings={**ledger.savings, **rung.changed}))
        write_json(run_dir.plan, plan_json(changed))
        next_engine = engine_for(
            prepared,
            run_dir,
            book,
            changed,
            session=session,
            environ=environ,
            forget=forget,
        )
        return Lighter(engine=next_engine, description=rung.description)

    engine = bare_engine(prepared, run_dir, plan, session.latents)

    def command(state: Path | None) -> Command:
        remove_abandoned_parts(run_dir.state)  # what a trainer that was killed had begun to save
        book.change(lambda ledger: ledger.resumed_from(step_of(state) if state else 0))
        return session.launch(engine.command(state), environ)

    own_stop = prepared.engine.name == "native"
    return replace(
        engine,
        command=command,
        lighter=lighter,
        lighter_on_host=lighter_on_host,
        out_of_memory_fix=last_words(plan.options, settings),
        lighter_captions=None if own_stop else lighter_captions,
        captions_fix=captions_fix(plan.options, encoders),
        guards=() if own_stop else (StopFileGuard(stop_file=run_dir.stop_file), DoneGuard()),
    )


def _transformer(prepared: Prepared, plan: Plan) -> Trained | None:
    """What is trained where, if it is a transformer's LoRA."""
    if prepared.base.facts.transformer is None:
        return None
    sizes = (width * height for width, height in prepared.dataset.images_by_bucket())
    return Trained(
        family=prepared.base.family,
        pixels=max(sizes, default=plan.resolution[0] * plan.resolution[1]),
        card=plan.gpu or "",
        num_processes=plan.num_processes,
    )


def _text_encoders(prepared: Prepared) -> TextEncoders:
    """The text encoders that encode the run's captions."""
    base = prepared.base
    (t5,) = [each for each in base.facts.files if each.option == "t5xxl"] or [None]
    if t5 is None:
        return TextEncoders(family=base.family)
    path = base.further.get(t5.option, base.path)
    entries = tensor_entries(read_safetensors_header(path)) if path.is_file() else {}
    dtypes = {entry["dtype"] for name, entry in entries.items() if name.endswith(t5.mark)}
    return TextEncoders(family=base.family, t5_in_8_bits=dtypes == {"F8_E4M3"})


def _leave_behind(run_dir: RunDir, book: LedgerBook, name: str) -> None:
    """Put the states and weights of a network that is given up aside."""
    rename_out_of_use(states(run_dir), "other-network")
    rename_out_of_use(sorted(run_dir.checkpoints.glob(f"{name}-*.safetensors")), "other-network")
    book.change(lambda ledger: replace(ledger, checkpoints=(), state_step=0))


def tokenizers_for(prepared: Prepared, run_dir: RunDir) -> Path | None:
    """CLIP's and T5's tokenizers where the base brings none of its own."""
    return None if prepared.base.layout == "diffusers" else _trainers_tokenizers(prepared, run_dir)


def _trainers_tokenizers(prepared: Prepared, run_dir: RunDir) -> Path:
    """CLIP's tokenizers, T5's, a link to the one among sd-scripts' files, and those of the Hub.
    Raises OSError."""
    folder = write_clip_tokenizers(run_dir.tokenizers).absolute()
    trainer = prepared.engine.trainer
    if T5_XXL in prepared.base.facts.tokenizers and trainer:
        link = folder / T5_XXL
        if not link.is_symlink():
            link.symlink_to(trainer.directory / "configs" / "t5_old", target_is_directory=True)
    write_tokenizers(folder, prepared.base.family, prepared.base.hub_tokenizers)
    return folder


def bare_engine(
    prepared: Prepared, run_dir: RunDir, plan: Plan, latents: Path | None = None
) -> Engine:
    """The chosen engine for `plan`, without fallbacks for an out-of-memory error."""
    cpus = num_cpus(prepared.machine)
    if prepared.engine.name == "native":
        return own_engine(
            plan,
            run_dir,
            prepared.engine,
            items=train_items(prepared.dataset, random_crop=prepared.settings.random_crop),
            held_out=train_items(replace(prepared.dataset, images=prepared.dataset.held_out)),
            tokenizers=tokenizers_for(prepared, run_dir),
            latents=latents,
            cpus=cpus,
        )
    return sd_scripts_engine(
        plan,
        run_dir,
        prepared.engine,
        train_data_dir=prepared.dataset.train_dir,
        reg_data_dir=prepared.dataset.reg_dir,
        tokenizers=_trainers_tokenizers(prepared, run_dir),
        cpus=cpus,
    )

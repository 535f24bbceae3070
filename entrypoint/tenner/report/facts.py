"""What the page is given: plain values, gathered by the pipeline. Nothing here reads a file.

Texts from captions, prompts and file names are taken as they are; the page escapes them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from tenner.core.family import Family
from tenner.core.network_parts import Part
from tenner.lora_files.judgement import LEAST_RATIO, MOST_RATIO
from tenner.report.loaders import STABLE_DIFFUSION, Loaders
from tenner.sample.job import Samples

State = Literal["training", "trained", "delivered", "not_delivered", "stopped", "budget", "failed"]
Language = Literal["auto", "en", "ar"]
Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A name and a value, a row of a table."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class SettingFact:
    """A setting and its source: `default`, a preset, a file with its line, a variable or a flag."""

    name: str
    value: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class ChoiceFact:
    """Something tenner decided, and why."""

    name: str
    value: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """The loss of every step seen; `steps` rise. It is NaN where the loss was not finite.

    `learning_rates` holds a series for each part that is trained, as long as `steps`, or nothing.
    `epoch_ends` are the steps after which an epoch was over.
    """

    steps: Sequence[int] = ()
    losses: Sequence[float] = ()
    learning_rates: Mapping[str, Sequence[float]] = field(
        default_factory=dict[str, Sequence[float]]
    )
    epoch_ends: Sequence[int] = ()
    validation: Sequence[tuple[int, float]] = ()
    """Steps, and the loss on held-out images after each."""

    def __post_init__(self) -> None:
        lengths = {len(self.steps), len(self.losses), *map(len, self.learning_rates.values())}
        if len(lengths) > 1:
            raise ValueError("steps, losses and learning rates differ in length")


@dataclass(frozen=True, kw_only=True)
class SampleImage:
    """One drawn picture: its file, and what it was drawn from."""

    path: Path
    group: str = ""
    row: str = ""
    column: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    strength: float = 1.0
    seed: int = 0
    ema: bool = False


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """The pictures drawn at one time: of an epoch, or of the finished LoRA (`final`)."""

    images: tuple[SampleImage, ...]
    epoch: int | None = None
    step: int | None = None
    final: bool = True

    @classmethod
    def of(
        cls,
        samples: Samples,
        folder: Path,
        *,
        epoch: int | None = None,
        step: int | None = None,
        final: bool = True,
    ) -> "SampleSet":
        """The pictures that `samples.json` in `folder` lists."""
        images = tuple(
            SampleImage(
                path=folder / each.file,
                group=each.cell.group,
                row=each.cell.row,
                column=each.cell.column,
                prompt=each.cell.prompt,
                negative_prompt=each.cell.negative_prompt,
                strength=each.cell.strength,
                seed=each.cell.seed,
                ema=each.cell.ema,
            )
            for each in samples.samples
        )
        return cls(images=images, epoch=epoch, step=step, final=final)


@dataclass(frozen=True, kw_only=True)
class DatasetImage:
    """A picture of the dataset on the page."""

    path: Path
    name: str
    caption: str = ""
    is_held_out: bool = False
    """Not trained on: the loss on it is measured while the others are trained."""


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What was trained on. `images` may hold fewer than `num_images`; then the page states how many
    are shown."""

    num_images: int
    num_captions: int
    images: tuple[DatasetImage, ...] = ()
    facts: tuple[Pair, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A problem, warning or note on the page."""

    text: str
    fix: str = ""
    level: Level = "warning"


@dataclass(frozen=True, kw_only=True)
class FileFact:
    """A file of the run. `where` is the destination it was verified at, if any."""

    name: str
    size_bytes: int
    sha256: str = ""
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class TimingFact:
    """How long a part of the run took, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CostFacts:
    """Dollars. `price_source` is where the price is from; empty for this machine's own."""

    spent_usd: float | None = None
    expected_usd: float | None = None
    price_per_hour: float | None = None
    max_cost_usd: float | None = None
    price_source: str = ""


@dataclass(frozen=True, kw_only=True)
class ConceptFact:
    """A distance of drawn pictures to held-out pictures of the concept; smaller is nearer."""

    name: str
    distance: float


@dataclass(frozen=True, kw_only=True)
class WeightsFact:
    """How far the LoRA moved one network part: `norm` of its update, `ratio` to the norm of the
    weights that it adapts, `moved_ratio` the same of what this training added to the LoRA that it
    started from. None where it could not be measured."""

    part: Part
    num_modules: int
    num_unchanged: int
    norm: float | None = None
    ratio: float | None = None
    moved_ratio: float | None = None

    @property
    def reading(self) -> str:
        """The key in `labels.WEIGHTS` of the judgement that these numbers lead to."""
        if self.num_unchanged == self.num_modules:
            return "none"
        moved = self.ratio if self.moved_ratio is None else self.moved_ratio
        if moved is None or self.ratio is None:
            return "unmeasured"
        if moved < LEAST_RATIO:
            return "little"
        return "much" if self.ratio > MOST_RATIO else "usual"


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """Everything on the page. What is empty or None is left out."""

    name: str
    state: State
    state_detail: str = ""
    phase: str = ""
    """What the run is doing now, beside training, by the name of its event."""
    language: Language = "auto"
    written_at: str = ""
    version: str = ""
    trigger: str = ""
    family: Family = "sd1"
    loaders: Loaders = STABLE_DIFFUSION
    """The programs whose use is explained."""
    base_name: str = ""
    base_is_file: bool = False
    """Whether it is a checkpoint of a single file, which is loaded otherwise than a folder."""
    base_licence: str = ""
    engine: str = ""
    lora_file: str = ""
    step: int = 0
    num_steps: int = 0
    epoch: int = 0
    num_epochs: int = 0
    eta_seconds: float | None = None
    images_per_second: float | None = None
    curve: LossCurve = field(default_factory=LossCurve)
    sample_sets: tuple[SampleSet, ...] = ()
    concept: tuple[ConceptFact, ...] = ()
    concept_definition: str = ""
    weights: tuple[WeightsFact, ...] = ()
    dataset: DatasetFacts | None = None
    settings: tuple[SettingFact, ...] = ()
    choices: tuple[ChoiceFact, ...] = ()
    machine: tuple[Pair, ...] = ()
    notices: tuple[Notice, ...] = ()
    files: tuple[FileFact, ...] = ()
    timings: tuple[TimingFact, ...] = ()
    cost: CostFacts | None = None


def redacted(facts: ReportFacts, redact: Callable[[str], str]) -> ReportFacts:
    """The same facts with every text in them passed through `redact`; numbers and paths stay."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return redact(value)
        if isinstance(value, tuple):
            return tuple(clean(each) for each in cast("tuple[Any, ...]", value))
        if is_dataclass(value) and not isinstance(value, type | LossCurve):
            names = [each.name for each in fields(value)]
            return replace(value, **{name: clean(getattr(value, name)) for name in names})
        return value

    return clean(facts)

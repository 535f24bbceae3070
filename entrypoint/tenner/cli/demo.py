"""`tenner demo`: a real LoRA, learnt from twenty shipped pictures on the built-in tiny base.

What was learnt is measured on pictures that were not trained on: the base and the LoRA draw the
held-out pictures' captions, and `tenner.cli.measure` computes how far each is from the real ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from PIL import Image

from tenner.base.tiny import concept_dir, held_out, regularisation_dir
from tenner.core.errors import ExitCode
from tenner.core.messages import msg
from tenner.pipeline.run import Outcome, run
from tenner.pipeline.sampler import Sampler
from tenner.planning.prepared import Prepared
from tenner.report.facts import ConceptFact
from tenner.sample.job import Cell, Drawn, Samples
from tenner.settings import load_request
from tenner.supervision.training import Trained
from tenner.ui.lines import duration
from tenner.ui.screen import make_screen

DEFINITION = msg(
    "Sliced Wasserstein distance between 3×3-cell patches of drawn and held-out pictures of the"
    " concept, in colour levels (0 is the same; two real pictures are about 2.5 apart)."
)
OTHERS = (
    "a red heart on a white background",
    "a green tree in a meadow",
    "a blue circle on a yellow background",
    "a purple mushroom at night",
)
"""Captions without the trigger: what the LoRA should leave as it was."""
SEEDS = (101, 102)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Mean distances in colour levels. `drift` is how far pictures without the trigger moved."""

    base: float
    lora: float
    drift: float

    def facts(self) -> tuple[ConceptFact, ...]:
        """As the report shows them."""
        return (
            ConceptFact(name=msg("the base alone, prompted for the concept"), distance=self.base),
            ConceptFact(name=msg("with the LoRA, prompted for the concept"), distance=self.lora),
            ConceptFact(
                name=msg("other prompts: how far the LoRA moves them from the base"),
                distance=self.drift,
            ),
        )


def run_demo(
    output_dir: Path, device: str, environ: Mapping[str, str], *, quiet: bool = False
) -> ExitCode:
    """Train, draw, measure, deliver to a folder, and print the result.

    A finished demo in `output_dir` is removed first: a demo is there to be watched.
    """
    run_dir = output_dir / "striped_star"
    if (run_dir / "delivered.json").is_file():
        rmtree(run_dir)
    request = load_request(
        {
            "dataset": str(concept_dir()),
            "reg_data_dir": str(regularisation_dir()),
            "output_dir": str(output_dir),
            "device": device,
        },
        {},
        preset="demo",
        read_default_config=False,
    )
    screen = make_screen(has_times=True, quiet=quiet)
    outcome = run(request, environ, screen, measure=measure, measure_definition=DEFINITION)
    assert isinstance(outcome, Outcome), "a demo that was delivered has been removed"
    _print_outcome(outcome)
    return ExitCode.DELIVERED


def measure(prepared: Prepared, trained: Trained, sampler: Sampler) -> tuple[ConceptFact, ...]:
    """Draw the held-out captions and the other prompts at strength 0 and 1, and compare."""
    sampler.context.begin("measuring", "held-out pictures")
    pairs = held_out()
    cells = [
        Cell(prompt=prompt, strength=strength, seed=seed)
        for strength in (0.0, 1.0)
        for prompt in [*(caption for _, caption in pairs), *OTHERS]
        for seed in SEEDS
    ]
    drawn = sampler.draw(tuple(cells), sampler.run_dir.samples / "measured")
    if drawn is None:
        return ()
    return _compare(drawn, cells, [path for path, _ in pairs]).facts()


def _compare(drawn: Drawn, cells: Sequence[Cell], real_paths: Sequence[Path]) -> Measured:
    """The mean distances of the drawn pictures. `cells` are those at strength 0, then the same at
    1; in each half the held-out captions come first, one for each of `real_paths` and `SEEDS`."""
    from tenner.cli.measure import concept_distance

    folder = drawn.listing.parent
    files = {sample.cell: folder / sample.file for sample in Samples.read(drawn.listing).samples}
    pictures = [_open(files[cell]) for cell in cells]
    half, num_held_out = len(cells) // 2, len(real_paths) * len(SEEDS)
    base, lora = pictures[:half], pictures[half:]
    real = [_open(path) for path in real_paths for _ in SEEDS]
    return Measured(
        base=concept_distance(base[:num_held_out], real),
        lora=concept_distance(lora[:num_held_out], real),
        drift=concept_distance(lora[num_held_out:], base[num_held_out:]),
    )


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _print_outcome(outcome: Outcome) -> None:
    trained, run_dir = outcome.trained, outcome.run_dir
    print(f"\nlearnt in {duration(trained.seconds)}, all in {duration(outcome.seconds)}")
    print("distance to held-out pictures of the concept (0 is the same):")
    for fact in outcome.concept:
        print(f"  {fact.distance:5.1f}  {fact.name}")
    print(f"LoRA    {trained.weights.path}")
    print(f"samples {run_dir.samples / 'grid.png'}")
    print(f"report  {run_dir.report}")

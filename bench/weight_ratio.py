"""How far a LoRA that has learnt moves its base, from one that saw nothing to one that spoilt it.

python -m bench.weight_ratio FOLDER [FACTOR …]

Trains the demo's concept on the tiny base at its learning rates times each factor, and prints, for
each, the size of the update against the weights it adapts (per network part), how near pictures
come to held-out ones of the concept, and how far pictures of other prompts drift. The bounds of
`tenner.lora_files.judgement` come from this table.
"""

import os
import sys
from pathlib import Path

from tenner.base.tiny import base_dir, concept_dir, regularisation_dir
from tenner.cli.demo import DEFINITION, measure
from tenner.lora_files.measured import MeasureJob
from tenner.lora_files.measuring import measure as measure_weights
from tenner.pipeline.run import Outcome, run
from tenner.settings import load_request
from tenner.ui.screen import make_screen

FACTORS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def row(folder: Path, factor: float) -> str:
    """One training, as a line of the table."""
    request = load_request(
        {
            "dataset": str(concept_dir()),
            "reg_data_dir": str(regularisation_dir()),
            "output_dir": str(folder / f"x{factor:g}"),
            "device": "cpu",
            "learning_rate": str(3e-3 * factor),
            "text_encoder_lr": [str(3e-4 * factor)],
            "no_samples": True,
        },
        {},
        preset="demo",
        read_default_config=False,
    )
    outcome = run(
        request, dict(os.environ), make_screen(), measure=measure, measure_definition=DEFINITION
    )
    assert isinstance(outcome, Outcome)
    job = MeasureJob(path=str(outcome.trained.weights.path), base=str(base_dir()), family="sd1")
    ratios = {part.part: part.ratio or 0.0 for part in measure_weights(job).parts}
    base, lora, drift = (fact.distance for fact in outcome.concept)
    return (
        f"{factor:8g}  {ratios['unet']:10.2e}  {ratios['text_encoder']:10.2e}"
        f"  {base:6.2f}  {lora:6.2f}  {drift:6.2f}"
    )


def main(words: list[str]) -> None:
    folder = Path(words[0])
    rows = [row(folder, float(word)) for word in words[1:] or map(str, FACTORS)]
    print("\nrate x   U-Net ratio  text ratio    base    LoRA   drift")
    print("\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1:])

"""`python -m scripts.tiny_base STAGE`: make the tiny base model, stage by stage."""

import argparse
from pathlib import Path

from .concept import save_concept
from .export import export
from .train import Recipe, train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.tiny_base", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    training = stages.add_parser("train", help="train text encoder and U-Net, or resume a training")
    training.add_argument("folder", type=Path)
    training.add_argument("--steps", type=int, default=Recipe.num_steps)
    training.add_argument("--rate", type=float, default=Recipe.learning_rate)
    training.add_argument("--seed", type=int, default=Recipe.seed)
    training.add_argument("--from", dest="start_from", type=Path, help="an exported base")
    training.add_argument("--device", default="cpu")
    exporting = stages.add_parser("export", help="write the trained model in diffusers layout")
    exporting.add_argument("folder", type=Path)
    exporting.add_argument("to", type=Path)
    concept = stages.add_parser("concept", help="write the demo's pictures")
    concept.add_argument("to", type=Path)
    arguments = parser.parse_args()
    if arguments.stage == "concept":
        save_concept(arguments.to)
        return
    if arguments.stage == "export":
        export(arguments.folder, arguments.to)
        return
    recipe = Recipe(num_steps=arguments.steps, learning_rate=arguments.rate, seed=arguments.seed)
    train(arguments.folder, recipe, arguments.device, arguments.start_from)


if __name__ == "__main__":
    main()

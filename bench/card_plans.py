"""The plan of each card for both trainers: batch, gradient checkpointing, time, dollars.

    python -m bench.card_plans

A job as the guide has it (5,000 images seen, rank 32; of SD 1.5 at 512 px with the text encoder, of
SDXL at 1024 px without) on every card with a price, at the cheapest price of the book. A plan is
written as `4` or, with gradient checkpointing, `4g` (`4g9`: of nine of the U-Net's blocks); then
seconds a step and dollars.
"""

from tenner.core.errors import TennerError
from tenner.hardware.cards import Card, cards
from tenner.hardware.cards.measured import Trainer
from tenner.hardware.prices import book_prices
from tenner.planning.batch_choice import CardMemory, Wish
from tenner.planning.sizing import choose_batch
from tenner.planning.speed import step_time
from tenner.planning.vram import Load

IMAGES = 5000
ENGINES: tuple[Trainer, Trainer] = ("sd-scripts", "native")


def load_of(family: str, engine: Trainer) -> Load:
    """The guide's job."""
    if family == "sd1":
        return Load(
            family="sd1", pixels=512**2, network_dim=32, text_encoder_trained=True, engine=engine
        )
    return Load(family="sdxl", pixels=1024**2, network_dim=32, engine=engine)


def cell(card: Card, load: Load) -> str:
    """Batch, seconds a step, dollars; a dash where it does not fit."""
    free = CardMemory(name=card.name, free_mib=card.free_mib)
    try:
        batch = choose_batch(load, free, Wish(most_images=100))
    except TennerError:
        return "-"
    size, saving = batch.batch_size, batch.gradient_checkpointing
    blocks = batch.checkpointed_blocks
    step = step_time(
        load,
        gpu_name=card.name,
        batch_size=size,
        gradient_checkpointing=saving,
        checkpointed_blocks=blocks,
    )
    levels = "" if blocks is None else str(blocks)
    written = f"{size}{f'g{levels}' if saving else ''}{'?' if batch.is_unsure else ''}"
    if step is None:
        return written
    dollars = min(price.usd_per_hour for price in book_prices(card.name))
    cost = step.seconds / size * IMAGES / 3600 * dollars
    return f"{written}, {step.seconds:.2f} s, ${cost:.2f}"


def main() -> None:
    """Print the table."""
    names = [f"{family}, {engine}" for family in ("SD 1.5", "SDXL") for engine in ENGINES]
    print(f"| card | {' | '.join(names)} |")
    print(f"| --- |{' --- |' * len(names)}")
    for card in cards():
        if not book_prices(card.name):
            continue
        cells = [
            cell(card, load_of(family, each)) for family in ("sd1", "sdxl") for each in ENGINES
        ]
        print(f"| {card.name} ({card.nameplate_gb} GB) | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

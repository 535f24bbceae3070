"""The README's picture, from a real demo run.

python -m scripts.readme_picture demo/striped_star
"""

import sys
from pathlib import Path

from tenner.sample.grid import draw_grid, read_tiles
from tenner.sample.job import SAMPLES_FILE

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "demo-grid.png"


def write_picture(run: Path) -> None:
    """Lay out the first group of the run's samples: strengths side by side, seeds below."""
    tiles = read_tiles(run / "samples" / "final" / SAMPLES_FILE)
    first = [tile for tile in tiles if tile.group == tiles[0].group]
    PICTURE.parent.mkdir(exist_ok=True)
    draw_grid(first, cell_pixels=128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    write_picture(Path(sys.argv[1]))

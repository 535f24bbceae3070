"""Takes a card's memory away from a run that has begun: `python -m bench.gpu_day.hog FILE GB`.

Once FILE is there, takes all of the card's free memory but GB, and holds it until stdin is closed.
Where there is no card it only waits.
"""

import sys
import threading
import time
from pathlib import Path

import torch

_BLOCK = 2**26
_LOOK_SECONDS = 0.05


def main() -> None:
    """Wait, take, hold."""
    path, left = Path(sys.argv[1]), float(sys.argv[2]) * 1e9
    closed = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    while not path.exists():
        if closed.is_set():
            return
        time.sleep(_LOOK_SECONDS)
    taken: list[torch.Tensor] = []
    while torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > left + _BLOCK:
        taken.append(torch.empty(_BLOCK, dtype=torch.uint8, device="cuda"))
    closed.wait()


if __name__ == "__main__":
    main()

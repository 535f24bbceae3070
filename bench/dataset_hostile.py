"""Feeds generated hostile datasets through the whole inspection, and accounts for every file.

Run: python bench/dataset_hostile.py [NUM_FILES, default 10000] [SEED, default 0]
In trees of 250 files each. Ends with exit code 1 at the first crash, file that is not accounted
for, or anything written outside the working copy.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "dataset"))

from hostile import write_hostile_tree

from tenner.core.errors import DatasetError
from tenner.dataset import DatasetRequest, inspect_dataset
from tenner.dataset.check import check
from tenner.dataset.listing import list_files

TREE = 250


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Every path below `root` with its change time and size; links are not followed."""
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in root.rglob("*")}


def account(root: Path, work: Path) -> Counter[str]:
    """How each file of the tree ended. Raises AssertionError where one is lost."""
    before = snapshot(root)
    request = DatasetRequest(
        source=str(root), resolution=(64, 64), min_bucket_reso=32, max_bucket_reso=128,
        bucket_reso_steps=8, num_repeats=1, image_timeout_seconds=20,
    )  # fmt: skip
    result = check(request)
    result.to_json()
    used = {image.source for image in result.images}
    left_out = {note.path for note in result.left_out}
    ends: Counter[str] = Counter()
    for entry in list_files(root):
        if entry.path in used:
            ends["used"] += 1
        elif entry.path in left_out:
            ends["left out and named"] += 1
        else:
            assert entry.kind in ("junk", "cache", "caption", "metadata"), entry
            ends[entry.kind] += 1
    try:
        dataset = inspect_dataset(request, work)
    except DatasetError:
        ends["trees refused"] += 1
    else:
        ends["trees trained on"] += 1
        assert all(work in image.path.parents for image in dataset.images)
        assert {image.source for image in dataset.images} <= used
    assert snapshot(root) == before, "the user's folder was written to"
    return ends


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    ends: Counter[str] = Counter()
    start = time.perf_counter()
    files = 0
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(-(-count // TREE)):
            root = Path(temporary) / f"tree{number}"
            root.mkdir()
            files += write_hostile_tree(root, TREE, seed * 1000 + number)
            ends += account(root, Path(temporary) / f"work{number}")
        outside = {path.name.rstrip("0123456789") for path in Path(temporary).iterdir()}
        assert outside <= {"tree", "work"}, outside
    seconds = time.perf_counter() - start
    print(f"{files} files in {seconds:.0f} s: {dict(ends.most_common())}")


if __name__ == "__main__":
    main()

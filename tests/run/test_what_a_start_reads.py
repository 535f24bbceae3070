"""What a start of the program costs: no library is read that the command does not need."""

import subprocess
import sys

from tenner.base.tiny import concept_dir

HEAVY = (
    "torch",
    "numpy",
    "PIL",
    "rich",
    "rapidfuzz",
    "httpx",
    "jinja2",
    "boto3",
    "botocore",
    "starlette",
)
PROBE = """
import sys
from tenner.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(code, *sorted(each for each in {heavy} if each in sys.modules), file=sys.stderr)
"""


def read_by(*args: str, heavy: tuple[str, ...] = HEAVY) -> str:
    """The exit code, and the `heavy` libraries that `tenner` with `args` has read."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=heavy), *args],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()[-1]


def test_help_and_plan_read_no_heavy_library() -> None:
    for args in (("--help",), ("train", "--help")):
        assert read_by(*args, heavy=(*HEAVY, "pydantic_settings", "asyncio")) == "0"
    job = (str(concept_dir()), "--base_model", "tiny", "--min_bucket_reso", "64")
    # Pillow opens the heads of images in the process itself: cheaper than another process.
    assert read_by("plan", *job, "--device", "cpu") == "0 PIL"


def test_a_typo_is_named_before_anything_is_decoded() -> None:
    assert read_by("plan", "--learnig_rate", "1") == "2 rapidfuzz"


def test_a_delivery_reads_nothing_of_the_page() -> None:
    probe = "import sys, tenner.runs.deliver; print(*{'jinja2', 'PIL', 'boto3'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"

"""The same buckets as sd-scripts: a captured table, and sd-scripts itself where it is here."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenner.kohya.buckets import BucketChoice, batches_per_epoch, make_buckets

TABLE = Path(__file__).with_name("sd_scripts_buckets.json")


def assigned(case: dict) -> list:
    buckets = make_buckets(
        resolution=tuple(case["resolution"]),
        enable_bucket=case["enable_bucket"],
        min_bucket_reso=case["min"],
        max_bucket_reso=case["max"],
        bucket_reso_steps=case["steps"],
        bucket_no_upscale=case["no_upscale"],
    )
    positions = [buckets.assign(*size) for size in case["sizes"]]
    return [[list(location.bucket), list(location.resized)] for location in positions]


def test_the_captured_table_of_sd_scripts():
    cases = json.loads(TABLE.read_text())
    assert len(cases) >= 6
    for case in cases:
        assert assigned(case) == case["answers"], case["resolution"]


@pytest.mark.sd_scripts
@pytest.mark.skipif(
    not (os.environ.get("SD_SCRIPTS_DIR") and os.environ.get("TENNER_TRAINER_PYTHON")),
    reason="needs SD_SCRIPTS_DIR and TENNER_TRAINER_PYTHON",
)
def test_sd_scripts_itself_answers_the_same():
    capture = Path(__file__).with_name("capture_buckets.py")
    done = subprocess.run(
        [os.environ["TENNER_TRAINER_PYTHON"], capture],
        cwd=os.environ["SD_SCRIPTS_DIR"],
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    for case in json.loads(done.stdout.splitlines()[-1]):
        assert assigned(case) == case["answers"], case["resolution"]


@given(
    width=st.integers(8, 9000),
    height=st.integers(8, 9000),
    no_upscale=st.booleans(),
    side=st.sampled_from([64, 512, 768, 1024]),
)
def test_the_cut_lies_inside_the_resized_picture(width, height, no_upscale, side):
    buckets = make_buckets(
        resolution=(side, side),
        enable_bucket=True,
        min_bucket_reso=min(256, side),
        max_bucket_reso=2048,
        bucket_no_upscale=no_upscale,
    )
    try:
        location = buckets.assign(width, height)
    except ValueError:
        assert no_upscale
        return
    assert location.bucket[0] % 64 == 0
    assert location.bucket[1] % 64 == 0
    for axis in (0, 1):
        assert 0 <= location.crop[axis] <= location.resized[axis] - location.bucket[axis]


def test_without_buckets_every_image_is_cut_to_the_resolution():
    buckets = make_buckets(resolution=(512, 512), enable_bucket=False)
    assert buckets.assign(1000, 500) == BucketChoice(
        bucket=(512, 512), resized=(1024, 512), crop=(256, 0)
    )


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"min_bucket_reso": 640}, "min_bucket_reso 640 is above the resolution 512"),
        ({"max_bucket_reso": 256}, "max_bucket_reso 256 is below the resolution 512"),
        ({"bucket_reso_steps": 0}, "bucket_reso_steps is 0"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(numbers, words):
    with pytest.raises(ValueError, match=words):
        make_buckets(resolution=(512, 512), enable_bucket=True, **numbers)


def test_a_batch_never_mixes_buckets():
    assert batches_per_epoch({(512, 512): 5, (448, 576): 1}, 4) == 3

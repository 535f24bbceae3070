"""Run in sd-scripts' folder with its Python: prints where its BucketManager puts sizes."""

import json
import logging
import random
import sys

sys.path.insert(0, ".")
logging.disable()

from library.train_util import BucketManager  # noqa: E402

CASES = [
    ((512, 512), 256, 1024, 64, False, True),
    ((512, 512), 256, 1024, 64, True, True),
    ((1024, 1024), 256, 2048, 64, False, True),
    ((1024, 1024), 512, 2048, 32, True, True),
    ((768, 512), 320, 1024, 64, False, True),
    ((64, 64), 32, 128, 8, False, True),
    ((512, 512), 256, 1024, 64, False, False),
]


def capture(resolution, smallest, largest, steps, no_upscale, enable_bucket):
    chance = random.Random(7)
    sizes = [(512, 512), (513, 511), (300, 900), (4000, 3000), (640, 640), (1, 1), (1920, 1080)][1:]
    sizes = [size for size in sizes if min(size) >= steps]
    sizes += [(chance.randrange(steps, 4000), chance.randrange(steps, 4000)) for _ in range(60)]
    sizes = [size for size in sizes if 0.2 < size[0] / size[1] < 5]
    manager = BucketManager(
        no_upscale, resolution, smallest, largest, steps if enable_bucket else None
    )
    if not enable_bucket:
        manager.set_predefined_resos([resolution])
    elif not no_upscale:
        manager.make_buckets()
    answers = [manager.select_bucket(*size)[:2] for size in sizes]
    return {
        "resolution": resolution,
        "min": smallest,
        "max": largest,
        "steps": steps,
        "no_upscale": no_upscale,
        "enable_bucket": enable_bucket,
        "sizes": sizes,
        "answers": answers,
    }


print(json.dumps([capture(*case) for case in CASES]))

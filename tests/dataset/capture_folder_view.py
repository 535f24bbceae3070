"""Run in sd-scripts' folder with its Python: prints what its own dataset sees in a folder tree.

Arguments: the training folder, the regularisation folder, then options of its parser.
"""

import argparse
import json
import logging
import os
import sys

sys.path.insert(0, ".")
logging.disable()

from library import config_util, train_util  # noqa: E402

train_dir, reg_dir, *options = sys.argv[1:]
parser = argparse.ArgumentParser()
train_util.add_dataset_arguments(parser, True, True, True)
parser.add_argument("--train_batch_size", type=int, default=1)
parser.add_argument("--max_train_steps", type=int, default=10)
parser.add_argument("--prior_loss_weight", type=float, default=1.0)
parser.add_argument("--masked_loss", action="store_true")
parser.add_argument("--network_multiplier", type=float, default=1.0)
args = parser.parse_args(["--train_data_dir", train_dir, "--reg_data_dir", reg_dir, *options])
train_util.prepare_dataset_args(args, True)
subsets = config_util.generate_dreambooth_subsets_config_by_subdirs(train_dir, reg_dir)
generator = config_util.BlueprintGenerator(config_util.ConfigSanitizer(True, True, False, True))
blueprint = generator.generate({"datasets": [{"subsets": subsets}]}, args)
group, _ = config_util.generate_dataset_group_by_blueprint(blueprint.dataset_group)
(dataset,) = group.datasets
seen = [
    {
        "path": os.path.relpath(info.absolute_path, os.path.dirname(train_dir)),  # noqa: PTH120
        "caption": info.caption,
        "num_repeats": info.num_repeats,
        "is_reg": info.is_reg,
        "bucket": list(info.bucket_reso),
        "resized": list(info.resized_size),
    }
    for info in dataset.image_data.values()
]
print(json.dumps({"images": sorted(seen, key=lambda each: each["path"]), "batches": len(dataset)}))

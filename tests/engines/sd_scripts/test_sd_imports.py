"""Files of kohya's GUI and sd-scripts' dataset configurations, read as tenner's keys."""

import json
import tomllib
from typing import Any

import pytest

from tenner.settings.imported import Imported
from tenner.settings.sources import import_json, import_tables

FORM: dict[str, Any] = {
    "LoRA_type": "Kohya LoCon",
    "additional_parameters": '--min_timestep=10 --caption_prefix "a b" --alpha_mask',
    "caption_extension": "",
    "clip_skip": 1,
    "conv_dim": 16,
    "conv_alpha": 8,
    "epoch": 8,
    "keep_tokens": "0",
    "learning_rate": 0.0005,
    "lr_scheduler": "cosine",
    "lr_warmup": 10,
    "max_resolution": "512,512",
    "max_train_steps": "",
    "min_snr_gamma": 0,
    "model_list": "custom",
    "optimizer": "AdamW8bit",
    "optimizer_args": "weight_decay=0.01",
    "pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5",
    "rank_dropout": 0.1,
    "sample_every_n_steps": 25,
    "sample_prompts": "sks star, red --w 512 --h 512\n# a comment\nsks star",
    "seed": "1234",
    "shuffle_caption": False,
    "text_encoder_lr": 0.0001,
    "train_batch_size": 4,
    "train_data_dir": "./img",
    "unet_lr": 0.0001,
    "wandb_api_key": "s3cret",
    "xformers": "xformers",
}

DATASETS = """
[general]
shuffle_caption = true
caption_extension = ".txt"
[[datasets]]
resolution = 512
batch_size = 4
  [[datasets.subsets]]
  image_dir = "/data/a"
  num_repeats = 10
  class_tokens = "sks star"
  [[datasets.subsets]]
  image_dir = "/data/reg"
  is_reg = true
"""


def imported(tables: dict[str, Any]) -> Imported:
    found = import_tables(tables)
    assert found is not None
    return found


def test_the_guis_form_is_read_with_its_own_idea_of_unset() -> None:
    found = import_json(json.dumps(FORM), name="form.json")
    values = found.values
    assert values["max_train_epochs"] == 8
    assert values["resolution"] == "512,512"
    assert values["optimizer_type"] == "AdamW8bit"
    assert values["lr_warmup_steps"] == 0.1
    assert values["text_encoder_lr"] == [0.0001]
    assert (values["conv_dim"], values["conv_alpha"]) == (16, 8)
    assert values["network_args"] == ["rank_dropout=0.1"]
    assert values["attention"] == "xformers"
    assert values["sample_prompts"] == ["sks star, red --w 512 --h 512", "sks star"]
    assert values["caption_prefix"] == "a b"
    assert values["min_timestep"] == "10"
    assert values["alpha_mask"] is True
    for off in (
        "min_snr_gamma",
        "keep_tokens",
        "clip_skip",
        "max_train_steps",
        "caption_extension",
    ):
        assert off not in values
    assert "s3cret" not in str(found)
    assert all(problem.level == "note" for problem in found.problems)


def test_a_rate_of_nought_leaves_that_part_alone() -> None:
    found = imported({**FORM, "text_encoder_lr": 0})
    assert found.values["network_train_unet_only"] is True
    assert "text_encoder_lr" not in found.values


@pytest.mark.parametrize(
    ("fields", "tracker"),
    [
        ({"use_wandb": True}, "wandb"),
        ({"use_wandb": False}, None),
        ({"log_with": "tensorboard"}, "tensorboard"),
        ({"log_with": ""}, None),
    ],
)
def test_the_forms_tracker_is_the_runs_and_its_key_is_left_out(
    fields: dict[str, object], tracker: str | None
) -> None:
    plain = {key: value for key, value in FORM.items() if key not in ("use_wandb", "log_with")}
    found = imported({**plain, **fields, "wandb_api_key": "s3cret"})
    assert found.values.get("log_with") == tracker
    assert "s3cret" not in str(found)
    assert any("WANDB_API_KEY" in each.fix for each in found.problems)


def test_other_kinds_of_network_are_reported() -> None:
    [error] = [
        each for each in imported({**FORM, "LoRA_type": "LoKr"}).problems if each.level == "error"
    ]
    assert "LoKr" in error.text


def test_a_dataset_configuration_falls_back_from_subset_to_general() -> None:
    found = imported(tomllib.loads(DATASETS))
    assert found.problems == ()
    assert found.values == {"batch_size": 4, "resolution": 512, "shuffle_caption": True}
    first, second = found.subsets
    assert (first.image_dir, first.num_repeats, first.class_tokens) == ("/data/a", 10, "sks star")
    assert first.caption_extension == ".txt"
    assert second.is_reg
    assert second.num_repeats == 1


def test_what_one_run_cannot_do_is_reported() -> None:
    two = DATASETS + '[[datasets]]\nresolution = 768\n[[datasets.subsets]]\nimage_dir = "/data/b"\n'
    reported = [each.text for each in imported(tomllib.loads(two)).problems]
    assert any("resolution differs" in text for text in reported)
    typo = DATASETS.replace("num_repeats", "num_repeat")
    [problem] = imported(tomllib.loads(typo)).problems
    assert problem.fix == "did you mean num_repeats?"
    assert "metadata file" in str(
        imported({"datasets": [{"subsets": [{"metadata_file": "m.json"}]}]}).problems
    )


def test_options_of_regularisation_images_are_never_dropped() -> None:
    reg = "is_reg = true\n"
    differs = DATASETS.replace(reg, reg + "  shuffle_caption = false\n  flip_aug = true\n")
    reported = [each.text for each in imported(tomllib.loads(differs)).problems]
    assert reported == [
        "flip_aug differs between the datasets: not set and true",
        "shuffle_caption differs between the datasets: false and true",
    ]
    only_train = DATASETS.replace("num_repeats = 10", "num_repeats = 10\n  flip_aug = true")
    found = imported(tomllib.loads(only_train))
    assert [(each.level, each.text) for each in found.problems] == [
        ("note", "flip_aug = true holds for the regularisation images too")
    ]
    assert found.values["flip_aug"] is True


def test_masks_in_files_of_their_own_and_a_prefix_are_the_subsets() -> None:
    tables = {"caption_prefix": "sks,", "conditioning_data_dir": "/masks", "image_dir": "/a"}
    found = imported({"datasets": [{"subsets": [tables]}]})
    assert found.problems == ()
    assert found.values == {"alpha_mask": True}
    assert found.subsets[0].caption_prefix == "sks,"
    assert found.subsets[0].mask_dir == "/masks"


def test_an_ordinary_settings_file_is_left_to_others() -> None:
    assert import_tables({"training": {"max_train_epochs": 10}}) is None
    assert import_json('{"network_dim": 8}', name="x.json").values == {"network_dim": 8}
    assert "is not JSON" in import_json("{", name="x.json").problems[0].text

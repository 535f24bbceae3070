"""A plan's options in sd-scripts' words."""

from pathlib import Path

import pytest

from tenner.core.train_job import conv_alpha_of
from tenner.engines.sd_scripts.arguments import Paths, arguments, translate

GUIDE = {
    "resolution": (512, 512),
    "train_batch_size": 2,
    "enable_bucket": True,
    "min_bucket_reso": 256,
    "max_bucket_reso": 1024,
    "max_train_epochs": 10,
    "learning_rate": 1e-4,
    "unet_lr": 1e-4,
    "text_encoder_lr": (5e-5,),
    "lr_scheduler": "cosine_with_restarts",
    "lr_warmup_steps": 100,
    "network_dim": 32,
    "network_alpha": 16.0,
    "optimizer_type": "AdamW8bit",
    "mixed_precision": "fp16",
    "save_every_n_epochs": 2,
    "save_model_as": "safetensors",
    "max_token_length": 75,
    "attention": "xformers",
    "destinations": ("file:///out",),
    "max_cost_usd": 10.0,
}


def test_the_guides_settings_lose_nothing_on_the_way() -> None:
    words = arguments(translate(GUIDE, family="sd1"))
    for word in (
        "--resolution=512,512",
        "--train_batch_size=2",
        "--network_module=networks.lora",
        "--caption_extension=.txt",
        "--learning_rate=0.0001",
        "--lr_warmup_steps=100",
        "--network_alpha=16.0",
        "--xformers",
        "--cache_latents",
    ):
        assert word in words
    at = words.index("--text_encoder_lr")
    assert words[at + 1] == "5e-05"
    reported = " ".join(words)
    assert "max_token_length" not in reported  # 75 is its default, and no choice of its parser
    assert "max_train_epochs" not in reported  # epochs would overrule the attempt's own steps
    assert "destinations" not in reported
    assert "sdpa" not in reported


def test_sdxl_gets_a_vae_in_full_precision_and_its_own_caches() -> None:
    expected = {**GUIDE, "network_train_unet_only": True, "clip_skip": 2}
    words = arguments(translate(expected, family="sdxl"))
    assert "--no_half_vae" in words
    assert "--cache_text_encoder_outputs" in words
    assert not any("clip_skip" in word for word in words)
    assert "--no_half_vae" not in arguments(
        translate({**expected, "no_half_vae": False}, family="sdxl")
    )


@pytest.mark.parametrize("changing", ["shuffle_caption", "caption_dropout_rate"])
def test_captions_that_change_are_not_encoded_once(changing: str) -> None:
    expected = {**GUIDE, "network_train_unet_only": True, changing: True}
    if changing == "caption_dropout_rate":
        expected[changing] = 0.1
    assert "--cache_text_encoder_outputs" not in arguments(translate(expected, family="sdxl"))


def test_captions_of_hunyuan_image_are_encoded_to_the_disk() -> None:
    """sd-scripts fails on its own cache in memory: torch takes no numpy scalar for a tensor."""
    expected = {**GUIDE, "network_train_unet_only": True}
    on_disk = "--cache_text_encoder_outputs_to_disk"
    assert on_disk in arguments(translate(expected, family="hunyuan-image"))
    assert on_disk not in arguments(translate(expected, family="flux"))
    changing = {**expected, "shuffle_caption": True}
    assert on_disk not in arguments(translate(changing, family="hunyuan-image"))


def test_images_that_change_are_not_encoded_once() -> None:
    words = arguments(translate({**GUIDE, "random_crop": True}, family="sd1"))
    assert "--cache_latents" not in words
    assert "--max_data_loader_n_workers=2" in words
    assert "--persistent_data_loader_workers" in words


def test_cached_latents_need_no_loader_processes() -> None:
    words = arguments(translate(GUIDE, family="sd1"))
    assert "--max_data_loader_n_workers=0" in words
    assert "--persistent_data_loader_workers" not in words


def test_sd2_is_reported_and_sdxl_options_are_kept_from_the_other_trainer() -> None:
    expected = {**GUIDE, "v_parameterization": True, "cache_text_encoder_outputs": True}
    words = arguments(translate(expected, family="sd2"))
    assert "--v2" in words
    assert "--v_parameterization" in words
    assert "--cache_text_encoder_outputs" not in words


def test_ranks_of_convolutions_go_by_the_networks_own_arguments() -> None:
    expected = {**GUIDE, "conv_dim": 8, "conv_alpha": 4.0, "network_args": ("loraplus_lr_ratio=4",)}
    found = translate(expected, family="sd1")["network_args"]
    assert found == ("loraplus_lr_ratio=4", "conv_dim=8", "conv_alpha=4.0")


@pytest.mark.parametrize(("conv_alpha", "scale"), [(None, 1 / 8), (4.0, 4 / 8), (0.0, 1.0)])
def test_both_trainers_scale_convolutions_alike(conv_alpha: float | None, scale: float) -> None:
    """By sd-scripts' `networks/lora.py`: alpha is 1 unless set, and 0 stands for the rank."""
    options = {**GUIDE, "conv_dim": 8} | ({} if conv_alpha is None else {"conv_alpha": conv_alpha})
    passed = dict(
        each.split("=") for each in translate(options, family="sd1").get("network_args", ())
    )
    alpha = float(passed.get("conv_alpha", 1)) or float(passed["conv_dim"])
    assert alpha / float(passed["conv_dim"]) == scale
    assert conv_alpha_of(8, conv_alpha) / 8 == scale


def test_whole_warm_up_steps_are_those_of_the_run_on_several_cards() -> None:
    two = translate({**GUIDE, "num_processes": 2}, family="sd1")
    assert two["lr_warmup_steps"] == 200
    share = translate({**GUIDE, "num_processes": 2, "lr_warmup_steps": 0.1}, family="sd1")
    assert share["lr_warmup_steps"] == 0.1


def test_a_value_that_would_be_taken_for_an_option_is_refused() -> None:
    with pytest.raises(ValueError, match="taken for an option"):
        arguments({"network_args": ("--resume=x",)})
    assert arguments({"caption_prefix": "--x"}) == ("--caption_prefix=--x",)


def test_paths_are_reported_whole() -> None:
    paths = Paths(
        base_model=Path("/models/a b.safetensors"),
        train_data_dir=Path("/data"),
        output_dir=Path("/out"),
        output_name="my lora",
        logging_dir=Path("/logs"),
    )
    words = arguments(paths.options())
    assert "--pretrained_model_name_or_path=/models/a b.safetensors" in words
    assert "--output_name=my lora" in words
    assert not any("reg_data_dir" in word for word in words)


@pytest.mark.parametrize(
    "without",
    [
        {"lr_scheduler": "constant"},
        {"optimizer_type": "Adafactor"},
        {"lr_scheduler_type": "CosineAnnealingLR"},
    ],
)
def test_schedules_that_refuse_warm_up_are_given_none(without: dict[str, object]) -> None:
    assert translate({**GUIDE, **without}, family="sd1")["lr_warmup_steps"] == 0

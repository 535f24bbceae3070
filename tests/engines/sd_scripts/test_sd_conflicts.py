"""What sd-scripts refuses together, or passes over in silence, is told before anything starts."""

import pytest

from tenner.engines.sd_scripts.arguments import Family
from tenner.engines.sd_scripts.conflicts import RULES, conflicts
from tenner.engines.sd_scripts.facts import options

GUIDE: dict[str, object] = {
    "resolution": 512,
    "enable_bucket": True,
    "min_bucket_reso": 256,
    "max_bucket_reso": 1024,
    "lr_scheduler": "cosine_with_restarts",
    "lr_warmup_steps": 100,
    "optimizer_type": "AdamW8bit",
    "mixed_precision": "fp16",
    "cache_latents": True,
}

BAD: list[tuple[Family, dict[str, object], str]] = [
    ("sdxl", {"cache_text_encoder_outputs": True}, "do not change"),
    (
        "sdxl",
        {
            "cache_text_encoder_outputs": True,
            "network_train_unet_only": True,
            "shuffle_caption": True,
        },
        "shuffle_caption changes them",
    ),
    (
        "sdxl",
        {
            "cache_text_encoder_outputs_to_disk": True,
            "network_train_unet_only": True,
            "caption_dropout_rate": 0.1,
        },
        "caption_dropout_rate changes them",
    ),
    ("sd1", {"cache_text_encoder_outputs": True}, "for SDXL only"),
    ("sd1", {"random_crop": True}, "random_crop changes them"),
    ("sd1", {"color_aug": True}, "color_aug changes them"),
    (
        "sd1",
        {"network_train_unet_only": True, "network_train_text_encoder_only": True},
        "nothing to train",
    ),
    ("sd1", {"full_bf16": True}, "full_bf16 needs mixed_precision = bf16"),
    ("sd1", {"fp8_base": True, "mixed_precision": "no"}, "fp8_base needs"),
    ("sd1", {"adaptive_noise_scale": 0.1}, "needs noise_offset"),
    ("sd1", {"scale_v_pred_loss_like_noise_pred": True}, "needs v_parameterization"),
    ("sd2", {"v_pred_like_loss": 0.1, "v_parameterization": True}, "predicts v"),
    ("sd1", {"zero_terminal_snr": True}, "needs v_parameterization"),
    ("sd1", {"dim_from_weights": True}, "needs network_weights"),
    ("sd1", {"fused_backward_pass": True}, "Adafactor only"),
    (
        "sd1",
        {
            "fused_backward_pass": True,
            "optimizer_type": "Adafactor",
            "lr_warmup_steps": 0,
            "gradient_accumulation_steps": 2,
        },
        "does not accumulate",
    ),
    ("sd1", {"lr_scheduler": "constant"}, "takes no warm-up"),
    ("sd1", {"optimizer_type": "Adafactor"}, "takes no warm-up"),
    ("sd1", {"lr_scheduler_type": "CosineAnnealingLR"}, "takes no warm-up"),
    ("sd1", {"lr_scheduler": "cosine_with_min_lr"}, "how low"),
    ("sd1", {"cpu_offload_checkpointing": True}, "stops with an error"),
    ("sd1", {"deepspeed": True}, "not installed"),
    ("sd1", {"log_with": "wandb"}, "wandb is not installed"),
    ("sd1", {"sample_every_n_epochs": 1}, "need sample_prompts"),
    ("sd1", {"masked_loss": True}, "finds no masks"),
    ("sd1", {"min_timestep": 500, "max_timestep": 500}, "not below max_timestep"),
    ("sd1", {"validation_split": 0.1}, "epochs shorter"),
    ("sdxl", {"v2": True}, "the base is SDXL"),
    ("sdxl", {"clip_skip": 2}, "clip_skip"),
    ("sd1", {"keep_tokens": 1}, "no effect"),
    ("sd1", {"xformers": True, "mem_eff_attn": True}, "slower"),
    ("sd1", {"prior_loss_weight": 0.5}, "without reg_data_dir"),
    ("sd1", {"base_weights_multiplier": (0.5,)}, "needs base_weights"),
    ("sd1", {"resolution": "128,256"}, "min_bucket_reso = 256 is above the resolution 128x256"),
    ("sd1", {"resolution": (2048, 512)}, "max_bucket_reso = 1024 is below"),
    ("sd1", {"bucket_reso_steps": 32}, "not a multiple of 64"),
    ("sdxl", {"bucket_reso_steps": 48}, "not a multiple of 32"),
    ("sd1", {"optimizer_type": "AdamW8bits"}, "no optimizer AdamW8bits"),
    ("sd1", {"optimizer_type": "sgd"}, "no optimizer sgd"),
    ("sd1", {"optimizer_type": "DAdaptAdam"}, "dadaptation"),
    ("sd1", {"optimizer_args": ("decouple=true",)}, "decouple=true is not"),
    ("sd1", {"optimizer_args": ("weight_decay",)}, "not key=value"),
    ("sd1", {"network_args": ("=4",)}, "not key=value"),
]


def test_the_guides_settings_stand_together() -> None:
    assert conflicts(GUIDE, family="sd1") == ()
    assert conflicts({**GUIDE, "resolution": 1024}, family="sdxl") == ()


@pytest.mark.parametrize(("family", "bad", "said"), BAD, ids=lambda each: str(each)[:60])
def test_one_conflict_is_told_once_with_its_fix(
    family: Family, bad: dict[str, object], said: str
) -> None:
    [problem] = conflicts({**GUIDE, **bad}, family=family)
    assert said in problem.text
    assert problem.fix


def test_each_rule_is_tried_here() -> None:
    told = {
        problem.text
        for family, bad, _ in BAD
        for problem in conflicts({**GUIDE, **bad}, family=family)
    }
    cached = {"cache_text_encoder_outputs": True, "network_train_unet_only": True}
    for name in ("caption_tag_dropout_rate", "token_warmup_step"):
        told |= {each.text for each in conflicts({**cached, name: 0.5}, family="sdxl")}
    for name, value in (("caption_dropout_every_n_epochs", 2), ("enable_wildcard", True)):
        told |= {each.text for each in conflicts({**cached, name: value}, family="sdxl")}
    told |= {
        each.text for each in conflicts({"full_fp16": True, "mixed_precision": "no"}, family="sd1")
    }
    assert {rule.text for rule in RULES} <= told


@pytest.mark.parametrize(
    "good",
    [
        {"optimizer_args": ("betas=0.9,0.99", "weight_decay=0.01", "decouple=True")},
        {"optimizer_type": "bitsandbytes.optim.AdEMAMix8bit"},
        {"optimizer_type": "prodigy"},
        {"lr_scheduler": "constant", "lr_warmup_steps": 0},
        {"optimizer_type": "Adafactor", "optimizer_args": ("relative_step=False",)},
        {"enable_bucket": False, "resolution": 64},
        {"min_timestep": 0, "max_timestep": 1000},
        {"sample_every_n_epochs": 1, "sample_prompts": "p.txt"},
    ],
)
def test_what_works_is_let_through(good: dict[str, object]) -> None:
    assert conflicts({**GUIDE, **good}, family="sd1") == ()


def test_defaults_of_all_options_stand_together() -> None:
    values = {
        name: option.default for name, option in options().items() if option.default is not None
    }
    assert conflicts(values, family="sd1") == ()

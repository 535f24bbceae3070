"""What a trainer refuses together, or passes over in silence, is reported before anything
starts."""

from dataclasses import replace

import pytest

from tenner.core.errors import Problem
from tenner.core.family import Family
from tenner.families import FAMILIES
from tenner.kohya.options import options
from tenner.rules import RULES, Check, Needs, Rule, Trainer, View, judge

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
    "output_name": "my_lora",
}

_CACHED = {"cache_text_encoder_outputs": True, "network_train_unet_only": True}
CASES: list[tuple[Family, dict[str, object], str]] = [
    (
        "sdxl",
        {"cache_text_encoder_outputs": True, "network_train_unet_only": False},
        "do not change",
    ),
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
    ("sd35-large", {"network_module": "networks.dylora"}, "cannot be laid over"),
    ("sd1", {"network_module": "networks.oft"}, "diffusers does not load its files"),
    ("flux", {"clip_skip": 2}, "clip_skip has no meaning for FLUX.1"),
    ("sd35-large", {"clip_skip": 2}, "clip_skip has no meaning for Stable Diffusion 3.5 Large"),
    ("sd35-medium", {"v_parameterization": True}, "it predicts the flow"),
    ("flux", {"ip_noise_gamma": 0.1}, "a straight line"),
    ("chroma", {"guidance_scale": 3.5}, "needs 0.0"),
    ("sd1", {"t5xxl": "t5.safetensors"}, "train_network.py has no such option"),
    ("sd35-large", {"ae": "ae.safetensors"}, "sd3_train_network.py has no such option"),
    ("flux", {"timestep_sampling": "nextdit_shift"}, "want one of sigma"),
    ("flux", {"blocks_to_swap": 2, "cpu_offload_checkpointing": True}, "cannot be had together"),
    ("flux", {"blocks_to_swap": 36}, "swaps 35 at most"),
    ("hunyuan-image", {"network_train_text_encoder_only": True}, "cannot be trained"),
    ("sd1", {"network_args": ("rank_dropout=1",)}, "a number from 0 to below 1"),
    ("sd1", {"network_args": ("loraplus_lr_ratio=abc",)}, "a number above 0"),
    ("sd1", {"network_args": ("block_dims=4,4,4",)}, "25 numbers between commas"),
    ("sdxl", {"network_args": ("block_alphas=" + ",".join("1" * 25),)}, "23 numbers"),
    ("sd1", {"network_args": ("down_lr_weight=sinus",)}, "cosine, sine, linear"),
    ("sd1", {"network_args": ("mid_lr_weight=sine",)}, "numbers between commas"),
    ("sd1", {"network_args": ("conv_dim=4.5", "conv_alpha=1")}, "a whole number"),
    ("flux", {"network_args": ("in_dims=4,4",)}, "5 whole numbers"),
    ("sd35-large", {"network_args": ("emb_dims=4",)}, "6 whole numbers"),
    ("flux", {"network_args": ("train_blocks=first",)}, "one of all, single, double"),
    ("flux", {"network_args": ("train_double_block_indices=0-19",)}, "from 0 to 18"),
    ("flux", {"network_args": ("train_single_block_indices=9-3",)}, "from 0 to 37"),
    ("sd35-medium", {"network_args": ("train_block_indices=24",)}, "from 0 to 23"),
    ("sd35-medium", {"blocks_to_swap": 23}, "swaps 22 at most"),
    ("chroma", {"vae": "ae.safetensors"}, "its autoencoder is named by ae"),
    ("flux", {"max_token_length": 225}, "has no effect on FLUX.1"),
    ("sd1", {**_CACHED}, "for SDXL only"),
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
    ("sd1", {"optimizer_type": "AdamW8bits"}, "knows no optimizer AdamW8bits"),
    ("sd1", {"optimizer_type": "sgd"}, "knows no optimizer sgd"),
    ("sd1", {"ema_decay": 0.9}, "no effect without ema"),
    ("sd1", {"optimizer_args": ("amsgrad=true",)}, "amsgrad=true is not"),
    ("sd1", {"optimizer_args": ("weight_decay",)}, "not key=value"),
    ("sd1", {"network_args": ("=4",)}, "not key=value"),
]


MORE: list[tuple[Family, dict[str, object], str]] = [
    ("sd1", {"network_args": ("blok_dims=1",)}, "networks.lora has no argument blok_dims"),
    (
        "sd1",
        {"network_module": "lycoris.kohya", "network_args": ("algo=lokrr",)},
        "no algo lokrr",
    ),
    (
        "sd1",
        {"network_module": "lycoris.kohya", "network_args": ("preset=fulll",)},
        "no preset fulll",
    ),
    *(
        (family, {"network_module": "lycoris.kohya", "network_args": words, **more}, message)
        for family, words, more, message in (
            ("flux", ("algo=ia3",), {}, "(IA)³ cannot be trained on FLUX.1"),
            ("anima", ("algo=ia3", "preset=full"), {}, "(IA)³ cannot be trained on Anima"),
            ("sd1", ("algo=ia3", "dora_wd=True"), {}, "(IA)³ does not read dora_wd"),
            ("sd1", ("algo=ia3",), {"conv_dim": 8}, "(IA)³ does not read conv_dim"),
            ("sd1", ("algo=ia3",), {"network_dropout": 0.1}, "does not read network_dropout"),
            ("sdxl", ("algo=IA3",), {"network_dim": 8}, "network_dim has no effect"),
            ("sd2", ("algo=ia3",), {}, "A1111 alone loads (IA)³"),
            ("sd1", ("algo=ia3",), {"learning_rate": 1e-4}, "rate of 0.0001 is low for (IA)³"),
            ("sd1", ("algo=ia3",), {"unet_lr": 2e-4, "learning_rate": 1e-2}, "rate of 0.0002"),
            ("sd1", ("algo=lokr", "preset=ia3"), {}, "preset ia3 adapts nothing with another"),
        )
    ),
    (
        "sd1",
        {"network_module": "lycoris.kohya", "network_args": ("algo=full",)},
        "no algo full",
    ),
    ("chroma", {"network_module": "networks.oft"}, "load no OFT of sd-scripts over Chroma"),
    (
        "flux",
        {"network_module": "lycoris.kohya", "network_args": ("train_t5xxl=True",)},
        "adapts no module of T5",
    ),
    (
        "sd1",
        {"network_module": "lycoris.kohya", "network_args": ("algo=boft", "bypass_mode=True")},
        "fails in the training",
    ),
    (
        "flux",
        {"network_module": "lycoris.kohya", "network_args": ("bypass_mode=True", "dora_wd=True")},
        "leaves dora_wd out",
    ),
    (
        "flux",
        {
            "network_module": "lycoris.kohya",
            "network_args": ("algo=loha",),
            "fp8_base": True,
            "mixed_precision": "bf16",
        },
        "LyCORIS cannot add to such weights",
    ),
    (
        "flux",
        {"network_args": ("block_dims=1",)},
        "networks.lora_flux has no argument block_dims",
    ),
    *(
        (
            family,
            {"network_module": "lycoris.kohya", "network_args": (f"preset={preset}",)},
            f"preset {preset} adapts no block",
        )
        for family, preset in (
            ("anima", "full"),
            ("lumina2", "attn-only"),
            ("sd3", "attn-only"),
            ("sd35-large", "unet-convblock-only"),
            ("hunyuan-image", "attn-only"),
            ("flux", "unet-convblock-only"),
        )
    ),
    ("anima", {"network_module": "lycoris.kohya"}, "preset full adapts no block of Anima"),
    (
        "chroma",
        {"network_train_unet_only": False, "network_args": ("train_t5xxl=True",)},
        "sd-scripts names lora_te3",
    ),
    ("lumina2", {"text_encoder_lr": (1e-5,)}, "an older ComfyUI"),
    ("anima", {"network_train_text_encoder_only": True}, "an older ComfyUI"),
    (
        "lumina2",
        {"text_encoder_lr": (1e-5,), "network_module": "lycoris.kohya"},
        "what LyCORIS trains of the text encoder",
    ),
    ("sdxl", {**_CACHED, "caption_tag_dropout_rate": 0.5}, "encodes captions once"),
    ("sdxl", {**_CACHED, "token_warmup_step": 0.5}, "encodes captions once"),
    ("sdxl", {**_CACHED, "caption_dropout_every_n_epochs": 2}, "encodes captions once"),
    ("sdxl", {**_CACHED, "enable_wildcard": True}, "encodes captions once"),
    ("sd1", {"full_fp16": True, "mixed_precision": "no"}, "full_fp16 needs"),
    ("sd2", {"clip_skip": 2}, "clip_skip is for SD 1.x"),
    ("sd1", {"clip_skip": 13}, "12 layers"),
    ("sd1", {"max_train_epochs": 1, "max_train_steps": 1}, "are both set"),
    ("sd1", {"save_every_n_epochs": 1, "save_every_n_steps": 1}, "are both set"),
    ("sd1", {"effective_batch_size": 4, "gradient_accumulation_steps": 2}, "are both set"),
    ("sd1", {"network_train_unet_only": True, "text_encoder_lr": (1e-5,)}, "has no effect"),
    ("sd1", {"scale_lr": "none", "lr_batch_size": 4}, 'no effect with scale_lr = "none"'),
    (
        "sd1",
        {"optimizer_type": "Prodigy", "learning_rate": 1.0, "scale_lr": "sqrt"},
        "no effect with Prodigy, which finds its rate",
    ),
    ("sd1", {"cuda_graphs": True}, "cuda_graphs has no effect with sd-scripts"),
    ("sd1", {"conv_alpha": 1}, "without conv_dim"),
    ("sd1", {"network_alpha": 0, "network_dim": 4}, "network_alpha = 0"),
    ("sd1", {"conv_dim": 4}, "scaled by 1/4"),
    ("sd1", {"network_args": ("conv_dim=8",)}, "scaled by 1/8"),
    ("sd1", {"output_name": "a:b"}, "it holds :"),
    ("sd1", {"output_name": "a\tb"}, "control character"),
    ("sd1", {"output_name": "a\nb"}, "control character"),
    ("sd1", {"output_name": "a\x1bb"}, "control character"),
    ("sd1", {"output_name": "a" * 235}, "is 235 bytes long"),
    ("sd1", {"output_name": "ض" * 100}, "is 200 bytes long"),
    ("sd1", {"output_dir": "D:\trained"}, "is an escape in TOML"),
    ("sd1", {"min_bucket_reso": 2048, "max_bucket_reso": 1024}, "is above max_bucket_reso"),
    ("sd1", {"dataset": "C:\\me\\pictures"}, "is on your PC"),
    ("sd1", {"output_name": "a/b"}, "is not a file name"),
    ("sd1", {"sample_at_epochs": (2,), "no_samples": True}, "no_samples none"),
    ("sd1", {"sample_at_epochs": (0,)}, "epochs count from 1"),
    ("sd1", {"sample_at_epochs": (2,), "save_every_n_steps": 5}, "saves none"),
    ("sd1", {"sample_at_epochs": (3,), "save_every_n_epochs": 2}, "no checkpoint is saved"),
    ("sd1", {"lr_scheduler_args": ("a",)}, "not key=value"),
    ("sdxl", {"text_encoder_lr": (1e-5, 2e-5)}, "2e-05 would be left out"),
    ("sd1", {"optimizer_args": ("learning_rate=3e-4",)}, "learning_rate is a setting of its own"),
    ("sd1", {"optimizer_args": ("lr=3e-4",)}, "lr is a setting of its own"),
    ("sd1", {"optimizer_args": ("weight_decay=0.5,",)}, "weight_decay=(0.5,) is not a number"),
    ("sd1", {"optimizer_args": ("weight_decai=0.5",)}, "does not take weight_decai"),
    ("sd1", {"optimizer_args": ("betas=0.9",)}, "betas=0.9 is not numbers"),
    ("sd1", {"optimizer_args": ("amsgrad=1",)}, "amsgrad=1 is not True or False"),
    (
        "sd1",
        {"optimizer_type": "Prodigy", "learning_rate": 1.0, "text_encoder_lr": (0.5,)},
        "one learning rate for all parts",
    ),
    ("sd1", {"optimizer_type": "Prodigy", "learning_rate": 1e-4}, "learns nothing"),
    ("sd1", {"optimizer_type": "AdamW", "learning_rate": 1.0}, "diverges"),
    ("sd1", {"optimizer_type": "AdamW", "learning_rate": 0.1}, "is outside of 1e-06 to 0.01"),
    ("sd1", {"optimizer_type": "Prodigy", "learning_rate": 0.1}, "is outside of 0.3 to 3"),
    (
        "sd1",
        {"optimizer_type": "AdamWScheduleFree", "lr_scheduler": "cosine"},
        "have no effect with AdamWScheduleFree",
    ),
]
"""More cases, of which some set off two rules."""

NEEDS: tuple[Needs, ...] = ("settings", "trainer", "plan")


def judged(
    values: dict[str, object], *, family: Family, trainer: Trainer = "sd-scripts"
) -> tuple[Problem, ...]:
    """What the rules say in a start, from the first to the last that is known."""
    found: list[Problem] = []
    for knows in NEEDS:
        view = View(
            values=values,
            options={key: value for key, value in values.items() if key not in GUIDE},
            sources=dict.fromkeys(values, "--flag"),
            knows=knows,
            trainer=trainer,
            family=family,
            base_predicts_v=False,
        )
        found += judge(view)
    return tuple(found)


def test_the_guides_settings_stand_together() -> None:
    assert judged(GUIDE, family="sd1") == ()
    assert judged({**GUIDE, "resolution": 1024}, family="sdxl") == ()


@pytest.mark.parametrize(("family", "bad", "message"), CASES, ids=lambda each: str(each)[:60])
def test_one_conflict_is_reported_once_with_its_fix(
    family: Family, bad: dict[str, object], message: str
) -> None:
    [problem] = set(judged({**GUIDE, **bad}, family=family))
    assert message in problem.text
    assert problem.fix


TRANSFORMERS = [name for name, facts in FAMILIES.items() if facts.transformer]
TAKE_OFT = ("flux", "flux-schnell", "chroma")


@pytest.mark.parametrize("module", ["networks.dylora", "networks.lora_fa", "networks.oft"])
def test_kinds_of_u_nets_are_refused_over_transformers(module: str) -> None:
    """sd-scripts has OFT for FLUX.1's script alone."""
    refused = {
        family
        for family in TRANSFORMERS
        for each in judged({"network_module": module}, family=family)
        if each.level == "error" and "cannot be laid over" in each.text
    }
    assert refused == {*TRANSFORMERS} - {*(TAKE_OFT if module == "networks.oft" else ())}


OWN_CASES: list[tuple[dict[str, object], str]] = [
    ({"scale_weight_norms": 1.0}, "the built-in trainer has no scale_weight_norms"),
    ({"secondary_separator": ";;;"}, "the built-in trainer has no secondary_separator"),
    ({"network_args": ("algo=locon",)}, "no network argument algo"),
    ({"network_args": ("loraplus_lr_ratio=4",)}, "no network argument loraplus_lr_ratio"),
    ({"zero_terminal_snr": True}, "zero_terminal_snr needs v_parameterization"),
    ({"shuffle_caption": False, "keep_tokens": 1}, "keep_tokens has no effect"),
    ({"prior_loss_weight": 0.5}, "prior_loss_weight has no effect"),
    ({"optimizer_type": "DAdaptAdam"}, "the built-in trainer knows no optimizer DAdaptAdam"),
    ({"optimizer_type": "AdamW8bits"}, "the built-in trainer knows no optimizer AdamW8bits"),
    (
        {"optimizer_type": "AdamW", "optimizer_args": ("fused=True",)},
        "the built-in trainer decides fused",
    ),
    (
        {"optimizer_type": "Adafactor", "optimizer_args": ("relative_step=True",)},
        "relative_step=True cannot be had",
    ),
    ({"cuda_graphs": True, "device": "cpu"}, "there is no NVIDIA card"),
    (
        {"cuda_graphs": True, "network_args": ("module_dropout=0.1",)},
        "cuda_graphs has no effect: module_dropout decides anew",
    ),
    (
        {"cuda_graphs": True, "network_dropout": 0.1, "gradient_checkpointing": True},
        "cuda_graphs has no effect: dropouts under gradient_checkpointing",
    ),
    ({"cuda_graphs": True, "torch_compile": True}, "torch_compile has not been tried"),
]
"""What was reported by one trainer only, or too late, and is reported of the built-in one too."""


@pytest.mark.parametrize(("bad", "message"), OWN_CASES, ids=lambda each: str(each)[:60])
def test_the_built_in_trainer_is_judged_by_the_same_rules(
    bad: dict[str, object], message: str
) -> None:
    settings = {
        *GUIDE,
        "optimizer_args",
        "network_args",
        "zero_terminal_snr",
        "keep_tokens",
        "prior_loss_weight",
        *("cuda_graphs", "device", "network_dropout", "gradient_checkpointing", "torch_compile"),
    }
    view = View(values={**GUIDE, **bad}, trainer="native", family="sd1", base_predicts_v=False)
    options = {key: value for key, value in bad.items() if key not in settings}
    found = [
        problem for knows in NEEDS for problem in judge(replace(view, knows=knows, options=options))
    ]
    [problem] = [each for each in found if message in each.text]
    assert problem.fix


def _sets_off(rule: Rule | Check) -> bool:
    """Whether one of the cases here is what the rule is for."""
    cases: list[tuple[dict[str, object], Family, Trainer]] = [
        ({**GUIDE, **bad}, family, "sd-scripts") for family, bad, _ in (*CASES, *MORE)
    ]
    for bad, _ in OWN_CASES:
        cases.append(({**GUIDE, **bad}, "sd1", "native"))
    return any(
        rule.problems(
            View(
                values=values,
                options=values,
                sources=dict.fromkeys(values, "--flag"),
                knows=rule.needs,
                trainer=trainer,
                family=family,
                base_predicts_v=False,
                missing_packages=("dadaptation",),
            )
        )
        for values, family, trainer in cases
    )


@pytest.mark.parametrize(("family", "bad", "message"), MORE, ids=lambda each: str(each)[:70])
def test_each_of_these_is_reported_with_its_fix(
    family: Family, bad: dict[str, object], message: str
) -> None:
    found = [each for each in judged({**GUIDE, **bad}, family=family) if message in each.text]
    assert found
    assert all(each.fix for each in found)


@pytest.mark.parametrize(
    "values",
    [
        {"network_args": ("algo=ia3", "preset=ia3", "module_dropout=0.1", "bypass_mode=True")},
        {"network_args": ("algo=ia3", "preset=mine.toml"), "learning_rate": 8e-3},
        {"network_args": ("algo=ia3",), "optimizer_type": "Prodigy", "learning_rate": 1.0},
    ],
)
def test_of_ia3_as_it_is_meant_only_its_program_is_named(values: dict[str, object]) -> None:
    values = {"network_module": "lycoris.kohya", **values}
    if "optimizer_type" in values:
        values |= {"lr_scheduler": "constant", "lr_warmup_steps": 0}
    found = judged({**GUIDE, **values}, family="sdxl")
    assert not [each for each in found if each.level == "error"]
    (about,) = [each for each in found if "(IA)³" in each.text]
    assert "A1111 alone" in about.text


@pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))
def test_each_rule_is_tried_here(rule: Rule | Check) -> None:
    assert _sets_off(rule), rule


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("chroma", {"network_train_unet_only": False}),
        ("chroma", {"network_train_unet_only": True, "network_args": ("train_t5xxl=True",)}),
        ("flux", {"network_train_unet_only": False, "network_args": ("train_t5xxl=True",)}),
        ("lumina2", {}),
        ("anima", {"network_train_unet_only": True}),
        ("lumina2", {"network_module": "lycoris.kohya"}),
        ("flux", {"network_module": "lycoris.kohya", "network_args": ("preset=attn-only",)}),
        ("sd1", {"network_module": "lycoris.kohya", "network_args": ("preset=attn-only",)}),
        ("anima", {"network_module": "lycoris.kohya", "network_args": ("preset=mine.toml",)}),
    ],
)
def test_of_what_comfyui_loads_and_lycoris_adapts_nothing_is_said(
    family: Family, values: dict[str, object]
) -> None:
    found = [each.text for each in judged({**GUIDE, **values}, family=family)]
    assert not [each for each in found if "ComfyUI" in each or "LyCORIS" in each]


@pytest.mark.parametrize(
    "good",
    [
        {"optimizer_args": ("betas=0.9,0.99", "weight_decay=0.01", "amsgrad=True")},
        {"optimizer_type": "bitsandbytes.optim.AdEMAMix8bit"},
        {"optimizer_type": "prodigy", "learning_rate": 1.0},
        {"lr_scheduler": "constant", "lr_warmup_steps": 0},
        {"optimizer_type": "Adafactor", "optimizer_args": ("relative_step=False",)},
        {"enable_bucket": False, "resolution": 64},
        {"network_args": ("loraplus_lr_ratio=16", "rank_dropout=0.1", "module_dropout=0")},
        {"network_args": ("block_dims=" + ",".join("4" * 25), "block_alphas=" + "1.5," * 24 + "1")},
        {"network_args": ("down_lr_weight=sine+.5", "mid_lr_weight=1", "up_lr_weight=1,,0")},
        {"min_timestep": 0, "max_timestep": 1000},
        {"sample_every_n_epochs": 1, "sample_prompts": "p.txt"},
    ],
)
def test_what_works_is_let_through(good: dict[str, object]) -> None:
    assert judged({**GUIDE, **good}, family="sd1") == ()


def test_defaults_of_all_options_stand_together() -> None:
    values = {
        name: option.default
        for name, option in options().items()
        if option.default is not None and option.is_of("train_network.py")
    }
    assert judged({**values, "output_name": "my_lora"}, family="sd1") == ()


@pytest.mark.parametrize("trainer", ["sd-scripts", "native"])
def test_an_argument_of_lycoris_is_sent_to_it(trainer: Trainer) -> None:
    """DoRA is no argument of the plain LoRA, of neither trainer."""
    view = View(
        values={"network_args": ("dora_wd=True",)},
        sources={"network_args": "job.toml"},
        knows="trainer",
        trainer=trainer,
        family="sdxl",
    )
    (problem,) = [each for each in judge(view) if "dora_wd" in each.text]
    assert "network_module = 'lycoris.kohya', which has dora_wd" in problem.fix

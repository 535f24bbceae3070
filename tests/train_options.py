"""Decided options for a trainer, of which a test names the few that it is about."""

from dataclasses import fields
from typing import Any

from tenner.engines.train_options import TrainOptions

_PLAIN: dict[str, Any] = {
    "max_token_length": 75,
    "caption_separator": ",",
    "network_module": "networks.lora",
    "network_dim": 4,
    "network_alpha": 1.0,
    "network_args": (),
    "learning_rate": 2e-6,  # sd-scripts' default
    "lr_scheduler": "constant",
    "lr_scheduler_num_cycles": 1,
    "lr_scheduler_power": 1.0,
    "optimizer_args": (),
    "max_grad_norm": 1.0,
    "seed": 42,
    "prior_loss_weight": 1.0,
    "save_precision": "fp16",
    "save_model_as": "safetensors",
    "resolution": (512, 512),
    "max_train_steps": 10,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "mixed_precision": "no",
    "attention": "sdpa",
    "optimizer_type": "AdamW",
    "enable_bucket": True,
    "min_bucket_reso": 256,
    "caption_dropout_rate": 0.0,
    "caption_tag_dropout_rate": 0.0,
}
_NUMBERS = ("keep_tokens", "caption_dropout_every_n_epochs", "max_data_loader_n_workers")


def train_options(**given: Any) -> TrainOptions:
    """`given` under sd-scripts' names; the others are off, or sd-scripts' defaults."""
    names = {each.name for each in fields(TrainOptions)} - {"engine_options", "added"}
    rate = given.get("learning_rate", _PLAIN["learning_rate"])
    values = {
        **dict.fromkeys(names),
        **dict.fromkeys((*_NUMBERS, "lr_warmup_steps"), 0),
        **_PLAIN,
        "unet_lr": rate,
        "text_encoder_lr": (rate,),
        **{name: value for name, value in given.items() if name in names},
    }
    for each in fields(TrainOptions):
        if each.type is bool:
            values[each.name] = bool(values[each.name])
    further = {name: value for name, value in given.items() if name not in names}
    return TrainOptions(**values, engine_options=further)

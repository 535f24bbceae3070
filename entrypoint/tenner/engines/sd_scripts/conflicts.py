"""Options that sd-scripts refuses together, or takes and leaves without effect: told at once.

Each rule was read from the pinned commit: from its assertions and exceptions, most of which come
only after minutes of loading and caching, and from code that passes a setting over in silence.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tenner.engines.sd_scripts.arguments import Family, takes_no_warmup
from tenner.engines.sd_scripts.facts import options
from tenner.errors import Level, Problem
from tenner.slips import nearest_name


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for: options by name, and the family of the base."""

    values: Mapping[str, object]
    family: Family

    def get(self, name: str) -> object:
        """The value of an option, its default where it is not set."""
        value = self.values.get(name)
        return options()[name].default if value is None else value

    def on(self, *names: str) -> bool:
        """Whether all of these are set to something: not false, 0 or empty."""
        return all(bool(self.get(name)) for name in names)

    def number(self, name: str) -> float:
        return float(str(self.get(name) or 0))

    def words(self, name: str) -> tuple[str, ...]:
        value = self.get(name)
        parts: list[object] = list(value) if isinstance(value, list | tuple) else []  # pyright: ignore[reportUnknownArgumentType]
        return tuple(str(part) for part in parts)

    @property
    def optimizer(self) -> str:
        return str(self.get("optimizer_type") or "AdamW")

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of `resolution`."""
        value = self.get("resolution")
        parts: Sequence[object] = (
            list(value) if isinstance(value, list | tuple) else str(value or "").split(",")  # pyright: ignore[reportUnknownArgumentType]
        )
        try:
            numbers = [int(str(part)) for part in parts]
        except ValueError:
            return None
        return (numbers[0], numbers[-1]) if numbers else None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A combination that does not work: when it is there, what to say, what to do."""

    when: Callable[[Asked], bool]
    text: str
    fix: str
    level: Level = "error"


def conflicts(values: Mapping[str, object], *, family: Family) -> tuple[Problem, ...]:
    """All that is wrong with options that are each fine. `values` are in sd-scripts' names."""
    asked = Asked(values=values, family=family)
    found = [
        Problem(text=rule.text, fix=rule.fix, level=rule.level)
        for rule in RULES
        if rule.when(asked)
    ]
    return (
        *found,
        *_text_encoder_rates(asked),
        *_sizes(asked),
        *_optimizer(asked),
        *_written_arguments(asked),
    )


def _caches_captions(asked: Asked) -> bool:
    names = ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")
    return asked.family == "sdxl" and any(asked.on(name) for name in names)


def _caches_latents(asked: Asked) -> bool:
    return asked.on("cache_latents") or asked.on("cache_latents_to_disk")


def _cached_captions_change(name: str) -> Rule:
    return Rule(
        when=lambda asked: _caches_captions(asked) and asked.on(name),
        text=f"cache_text_encoder_outputs encodes captions once, {name} changes them at each step",
        fix=f"remove cache_text_encoder_outputs or {name}",
    )


def _cached_latents_change(name: str) -> Rule:
    return Rule(
        when=lambda asked: _caches_latents(asked) and asked.on(name),
        text=f"cache_latents encodes images once, {name} changes them at each step",
        fix=f"remove cache_latents or {name}",
    )


def _needs(name: str, other: str, *, why: str = "", level: Level = "error") -> Rule:
    return Rule(
        when=lambda asked: asked.on(name) and not asked.on(other),
        text=f"{name} needs {other}{why}",
        fix=f"set {other}, or remove {name}",
        level=level,
    )


def _needs_precision(name: str, precision: str) -> Rule:
    return Rule(
        when=lambda asked: asked.on(name) and asked.get("mixed_precision") != precision,
        text=f"{name} needs mixed_precision = {precision}",
        fix=f'set mixed_precision = "{precision}", or remove {name}',
    )


RULES = (
    _cached_captions_change("shuffle_caption"),
    _cached_captions_change("caption_dropout_rate"),
    _cached_captions_change("caption_tag_dropout_rate"),
    _cached_captions_change("token_warmup_step"),
    _cached_captions_change("caption_dropout_every_n_epochs"),  # not asserted, only without effect
    _cached_captions_change("enable_wildcard"),  # likewise: one draw for the whole run
    Rule(
        when=lambda asked: _caches_captions(asked) and not asked.on("network_train_unet_only"),
        text="cache_text_encoder_outputs needs text encoders that do not change",
        fix="set network_train_unet_only = true, or remove cache_text_encoder_outputs",
    ),
    Rule(
        when=lambda asked: (
            asked.family != "sdxl"
            and bool(
                asked.values.get("cache_text_encoder_outputs")
                or asked.values.get("cache_text_encoder_outputs_to_disk")
            )
        ),
        text="cache_text_encoder_outputs is for SDXL only",
        fix="remove it: SD 1.x and 2.x have no such option",
    ),
    _cached_latents_change("color_aug"),
    _cached_latents_change("random_crop"),
    Rule(
        when=lambda asked: asked.on("network_train_unet_only", "network_train_text_encoder_only"),
        text="network_train_unet_only and network_train_text_encoder_only leave nothing to train",
        fix="set one of them to false",
    ),
    _needs_precision("full_fp16", "fp16"),
    _needs_precision("full_bf16", "bf16"),
    Rule(
        when=lambda asked: (
            (asked.on("fp8_base") or asked.on("fp8_base_unet"))
            and asked.get("mixed_precision") == "no"
        ),
        text="fp8_base needs mixed_precision = fp16 or bf16",
        fix='set mixed_precision = "bf16", or remove fp8_base',
    ),
    _needs("adaptive_noise_scale", "noise_offset"),
    _needs("scale_v_pred_loss_like_noise_pred", "v_parameterization"),
    Rule(
        when=lambda asked: asked.on("v_pred_like_loss", "v_parameterization"),
        text="v_pred_like_loss is for bases that predict noise, this one predicts v",
        fix="remove v_pred_like_loss",
    ),
    _needs("zero_terminal_snr", "v_parameterization", why=": noise cannot be predicted from noise"),
    _needs("dim_from_weights", "network_weights"),
    _needs("base_weights_multiplier", "base_weights", level="warning"),
    Rule(
        when=lambda asked: (
            asked.on("fused_backward_pass") and asked.optimizer.lower() != "adafactor"
        ),
        text="fused_backward_pass works with Adafactor only",
        fix='set optimizer_type = "Adafactor", or remove fused_backward_pass',
    ),
    Rule(
        when=lambda asked: (
            asked.on("fused_backward_pass") and asked.number("gradient_accumulation_steps") > 1
        ),
        text="fused_backward_pass does not accumulate gradients",
        fix="set gradient_accumulation_steps = 1, or remove fused_backward_pass",
    ),
    Rule(
        when=lambda asked: asked.on("lr_warmup_steps") and takes_no_warmup(asked.values),
        text="this lr_scheduler takes no warm-up steps",
        fix='set lr_warmup_steps = 0, or lr_scheduler = "constant_with_warmup"',
    ),
    Rule(
        when=lambda asked: (
            asked.get("lr_scheduler") == "cosine_with_min_lr"
            and asked.get("lr_scheduler_min_lr_ratio") is None
            and not asked.words("lr_scheduler_args")
        ),
        text="cosine_with_min_lr does not know how low to go",
        fix="set lr_scheduler_min_lr_ratio, such as 0.1",
    ),
    Rule(
        when=lambda asked: asked.on("cpu_offload_checkpointing"),
        text="cpu_offload_checkpointing stops with an error on SD and SDXL",
        fix="remove it; gradient_checkpointing = true saves the most",
    ),
    Rule(
        when=lambda asked: asked.on("deepspeed"),
        text="deepspeed is not installed with the trainer, and a LoRA needs none of it",
        fix="remove deepspeed; say num_processes for several cards",
    ),
    Rule(
        when=lambda asked: asked.get("log_with") in ("wandb", "all"),
        text="wandb is not installed with the trainer",
        fix="remove log_with: the TensorBoard log and the report are kept anyway",
    ),
    Rule(
        when=lambda asked: (
            any(
                asked.on(name)
                for name in ("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first")
            )
            and not asked.get("sample_prompts")
        ),
        text="samples during training need sample_prompts; sd-scripts dies without them",
        fix="set sample_prompts, or say sample_at_epochs and leave them to tenner",
    ),
    Rule(
        when=lambda asked: asked.on("masked_loss") and not asked.on("alpha_mask"),
        text="masked_loss finds no masks",
        fix="set alpha_mask = true and give images with transparency, or remove masked_loss",
    ),
    Rule(
        when=lambda asked: (
            asked.get("max_timestep") is not None
            and asked.number("min_timestep") >= asked.number("max_timestep")
        ),
        text="min_timestep is not below max_timestep, so one timestep would be all that is trained",
        fix="set min_timestep below max_timestep (0 to 1000)",
    ),
    Rule(
        when=lambda asked: asked.number("validation_split") != 0,
        text="validation_split makes sd-scripts' epochs shorter than they are planned: it holds"
        " images out of each folder by itself",
        fix="remove validation_split, or train with the built-in trainer (engine = 'diffusers')",
    ),
    Rule(
        when=lambda asked: asked.family == "sdxl" and asked.on("v2"),
        text="v2 is for Stable Diffusion 2.x, and the base is SDXL",
        fix="remove v2",
    ),
    Rule(
        when=lambda asked: asked.family != "sd1" and asked.get("clip_skip") is not None,
        text="clip_skip is for SD 1.x; elsewhere it has no effect or an unwanted one",
        fix="remove clip_skip",
        level="warning",
    ),
    Rule(
        when=lambda asked: (
            (asked.on("keep_tokens") or asked.on("keep_tokens_separator"))
            and not any(
                asked.on(name)
                for name in ("shuffle_caption", "caption_tag_dropout_rate", "token_warmup_step")
            )
        ),
        text="keep_tokens has no effect: nothing shuffles or drops tags",
        fix="set shuffle_caption = true, or remove keep_tokens",
        level="warning",
    ),
    Rule(
        when=lambda asked: asked.on("xformers", "mem_eff_attn") or asked.on("sdpa", "mem_eff_attn"),
        text="mem_eff_attn takes the place of xformers and sdpa, and is slower than both",
        fix="remove mem_eff_attn",
        level="warning",
    ),
    Rule(
        when=lambda asked: asked.number("prior_loss_weight") != 1 and not asked.get("reg_data_dir"),
        text="prior_loss_weight has no effect without reg_data_dir",
        fix="set reg_data_dir, or remove prior_loss_weight",
        level="warning",
    ),
)


def _text_encoder_rates(asked: Asked) -> Iterator[Problem]:
    """`networks.lora` has one rate for SDXL's two text encoders: the first that is given."""
    rates = asked.words("text_encoder_lr")
    if asked.family == "sdxl" and len({float(each) for each in rates}) > 1:
        text = f"sd-scripts trains both text encoders at one rate, {rates[0]}: {rates[1]} would"
        fix = "give one rate, or train with the built-in trainer (engine = 'diffusers')"
        yield Problem(text=f"{text} be left out", fix=fix)


def _sizes(asked: Asked) -> Iterator[Problem]:
    size = asked.size
    if size is None or not asked.on("enable_bucket"):
        return
    least, most = asked.number("min_bucket_reso"), asked.number("max_bucket_reso")
    shown = f"{size[0]}x{size[1]}"
    if least > min(size):
        text = f"min_bucket_reso = {least:.0f} is above the resolution {shown}"
        yield Problem(text=text, fix=f"set min_bucket_reso to {min(size)} or less")
    if most < max(size):
        text = f"max_bucket_reso = {most:.0f} is below the resolution {shown}"
        yield Problem(text=text, fix=f"set max_bucket_reso to {max(size)} or more")
    steps, wanted = int(asked.number("bucket_reso_steps")), 32 if asked.family == "sdxl" else 64
    if steps < 1 or steps % wanted:
        text = f"bucket_reso_steps = {steps} is not a multiple of {wanted}"
        yield Problem(text=text, fix=f"set bucket_reso_steps = {wanted}")


def _optimizer(asked: Asked) -> Iterator[Problem]:
    name = asked.optimizer
    if "." in name or name.lower() in _OWN_OPTIMIZERS or name in _TORCH_OPTIMIZERS:
        return
    if name.lower().startswith("dadapt"):
        text = f"optimizer_type = {name} needs the package dadaptation, which is not installed"
        yield Problem(text=text, fix='set optimizer_type = "Prodigy", which does the same')
        return
    known = (*_OWN_OPTIMIZERS.values(), *_TORCH_OPTIMIZERS)
    by_lower = {each.lower(): each for each in known}
    near = nearest_name(name.lower(), by_lower, least=60)
    fix = f"did you mean {by_lower[near]}?" if near else "AdamW8bit and AdamW are the usual ones"
    yield Problem(text=f"sd-scripts knows no optimizer {name}", fix=fix)


def _written_arguments(asked: Asked) -> Iterator[Problem]:
    """`key=value` lists are taken apart only after everything is loaded; values are Python's."""
    for name in ("optimizer_args", "lr_scheduler_args", "network_args"):
        for word in asked.words(name):
            key, equals, value = word.partition("=")
            if not equals or not key.isidentifier():
                yield Problem(text=f"{name}: '{word}' is not key=value", fix=f"write {key}=VALUE")
            elif name != "network_args" and not _is_literal(value):
                meant = value.capitalize() if value in ("true", "false", "none") else f"'{value}'"
                text = f"{name}: the value of {word} is not a number, True, False or 'text'"
                yield Problem(text=text, fix=f"write {key}={meant}")


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return "=" not in text


_OWN_OPTIMIZERS = {
    name.lower(): name
    for name in (
        "AdamW",
        "AdamW8bit",
        "PagedAdamW",
        "PagedAdamW8bit",
        "PagedAdamW32bit",
        "Lion",
        "Lion8bit",
        "PagedLion8bit",
        "SGDNesterov",
        "SGDNesterov8bit",
        "Prodigy",
        "Adafactor",
        "AdamWScheduleFree",
        "RAdamScheduleFree",
        "SGDScheduleFree",
    )
}
_TORCH_OPTIMIZERS = (
    *("ASGD", "Adadelta", "Adagrad", "Adam", "Adamax"),
    *("NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
)
"""Those of torch 2.4 that a plain training loop can drive; their case counts."""

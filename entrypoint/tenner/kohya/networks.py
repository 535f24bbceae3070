"""Kinds of network that sd-scripts trains besides the plain LoRA, with the arguments of each.

From `networks/*.py` of the pinned commit and `lycoris/kohya.py`, `wrapper.py` and `config.py` of
lycoris-lora 3.4.0: keys that their `create_network` reads; anything else is passed over there in
silence. A contract test holds these tables against the installed sources.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tenner.families import FamilyFacts

LYCORIS = "lycoris.kohya"

_LORA_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
_DROPOUTS = ("rank_dropout", "module_dropout")
_BLOCKS = (
    *("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"),
    *("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold"),
)
_CONVOLUTIONS = ("conv_dim", "conv_alpha")

IA3 = "ia3"
"""(IA)³ as `algo` and the preset that is made for it. Version 3.4.0 makes neither work by itself:
see `engines/sd_scripts/lycoris_ia3.py`."""
IA3_ARGUMENTS = ("algo", "preset", "module_dropout", "bypass_mode")
"""What (IA)³ reads of them (`lycoris/modules/ia3.py`): it has neither rank nor alpha."""
RANKS = ("network_dim", "network_alpha", "conv_dim", "conv_alpha")
"""Settings that have no meaning for it."""
IA3_RATE = 5e-3
"""Its learning rate. LyCORIS' docs/Algo-List.md: "about 5e-3~1e-2"."""
ALGORITHMS = ("lora", "locon", "loha", "lokr", "dylora", "glora", "diag-oft", "boft", IA3)
"""full is not among them: lycoris.kohya 3.4.0 takes the base's weights away for it and fails at the
first step, which computes with them."""
BESIDE_THE_BASE = ("lora", "locon", "loha", "lokr", "glora", "diag-oft", IA3)
"""Those whose `bypass_mode` works: the update is computed beside the base's layer, and the base's
weights are not touched."""
PRESETS = (
    *("full", "full-lin", "attn-mlp", "attn-only", "unet-only", "unet-transformer-only"),
    *("unet-convblock-only", IA3),
)
"""Those of LyCORIS that a word names; a TOML file is a preset too."""


@dataclass(frozen=True, kw_only=True)
class NetworkKind:
    """A network module: its arguments, by sd-scripts' script where they differ."""

    arguments: tuple[str, ...]
    scripts: tuple[str, ...]
    """Scripts whose models it can be laid over; empty for all."""


_UNETS = ("train_network.py", "sdxl_train_network.py")

NETWORKS: Mapping[str, NetworkKind] = {
    LYCORIS: NetworkKind(
        arguments=(
            *("algo", "preset", "dropout", *_DROPOUTS, *_CONVOLUTIONS, *_LORA_PLUS),
            *("use_tucker", "use_cp", "use_conv_cp", "disable_conv_cp", "use_scalar", "block_size"),
            *("train_norm", "constraint", "rescaled", "dora_wd", "wd_on_output", "full_matrix"),
            *("bypass_mode", "rs_lora", "unbalanced_factorization", "decompose_both", "factor"),
            "train_t5xxl",
        ),
        scripts=(),
    ),
    "networks.oft": NetworkKind(
        arguments=("enable_all_linear", "enable_conv"),
        scripts=(*_UNETS, "flux_train_network.py"),
    ),
    "networks.lora_fa": NetworkKind(
        arguments=(*_CONVOLUTIONS, *_BLOCKS, *_DROPOUTS), scripts=_UNETS
    ),
    "networks.dylora": NetworkKind(arguments=(*_CONVOLUTIONS, "unit", *_LORA_PLUS), scripts=_UNETS),
}

PLAIN: Mapping[str, tuple[str, ...]] = {
    "networks.lora": (*_CONVOLUTIONS, *_BLOCKS, "dropout", *_DROPOUTS, *_LORA_PLUS),
    "networks.lora_flux": (
        *("img_attn_dim", "txt_attn_dim", "img_mlp_dim", "txt_mlp_dim", "img_mod_dim"),
        *("txt_mod_dim", "single_dim", "single_mod_dim", "in_dims", "train_double_block_indices"),
        *("train_single_block_indices", *_DROPOUTS, "train_blocks", "split_qkv", "ggpo_beta"),
        *("ggpo_sigma", "train_t5xxl", "verbose", "network_reg_lrs", "network_reg_dims"),
        *_LORA_PLUS,
    ),
    "networks.lora_sd3": (
        *("context_attn_dim", "context_mlp_dim", "context_mod_dim", "x_attn_dim", "x_mlp_dim"),
        *("x_mod_dim", "emb_dims", "train_block_indices", *_DROPOUTS, "split_qkv"),
        *("train_t5xxl", "verbose", *_LORA_PLUS),
    ),
}
"""Arguments of the plain LoRA, by the module that trains it; what is not here is not held."""

NOT_IN_DIFFUSERS = (LYCORIS, "networks.oft")
"""Kinds whose files diffusers does not load."""


def is_drawn(network_module: str | None, facts: FamilyFacts) -> bool:
    """Whether samples can be drawn with such a network: a plain LoRA always, LyCORIS's by its own
    code where the model that is drawn has the modules that sd-scripts trained."""
    if network_module == LYCORIS:
        return facts.transformer is None or facts.drawing.has_trainers_model
    return network_module not in NOT_IN_DIFFUSERS


def is_ia3(network_module: str | None, network_args: Sequence[str]) -> bool:
    """Whether this is LyCORIS' (IA)³; `network_args` are words such as `algo=ia3`."""
    words = (word.partition("=") for word in network_args)
    return network_module == LYCORIS and any(
        (key, value.lower()) == ("algo", IA3) for key, _, value in words
    )

"""Which files of a repo or a bucket's folder are the base model. Pure: names in, names out."""

import re
from collections.abc import Mapping, Sequence

from tenner.core.errors import SettingsError
from tenner.core.messages import msg

_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_CONFIGS = re.compile(
    r"model_index\.json|(?:unet|vae|text_encoder|text_encoder_2|scheduler)/[^/]+\.json"
    r"|(?:tokenizer|tokenizer_2)/[^/]+"
)
_WEIGHTS = re.compile(r"(?P<part>[^/]+)/(?P<file>[^/]+\.safetensors(?:\.index\.json)?)")
_VARIANT = re.compile(r"\.(?P<variant>fp16|bf16|non_ema)(?=[.-])")

_SINGLE = re.compile(r"/(?:diffusion_pytorch_)?model(?:\.fp16)?\.safetensors$")


def choose_files(names: Sequence[str], *, where: str) -> tuple[str, ...]:
    """The base among `names` (relative, with `/`): one checkpoint, or a diffusers folder.

    Of a folder, each part's full weights are taken, and its fp16 ones only where there are no
    others. Raises SettingsError where there is none, or where there are several to choose from.
    """
    if "model_index.json" in names or "unet/config.json" in names:
        return _folder(names, where)
    checkpoints = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if len(checkpoints) == 1:
        return tuple(checkpoints)
    if checkpoints:
        raise SettingsError(
            msg(
                "{where} holds {n} checkpoints: {some}",
                where=where,
                n=len(checkpoints),
                some=_some(checkpoints),
            ),
            fix=msg(
                "name one: base_model = {where}/{checkpoints}",
                where=where,
                checkpoints=sorted(checkpoints)[0],
            ),
        )
    pickles = [name for name in names if name.endswith((".ckpt", ".bin", ".pt"))]
    if pickles:
        raise SettingsError(
            msg(
                "{where} holds weights only as pickles, which can run code: {some}",
                where=where,
                some=_some(pickles),
            ),
            fix=msg("take a model that is saved as .safetensors, or convert it"),
        )
    raise SettingsError(
        msg("{where} holds no base model", where=where),
        fix=msg("name a .safetensors checkpoint, or a folder in diffusers layout"),
    )


def _folder(names: Sequence[str], where: str) -> tuple[str, ...]:
    weights: dict[str, dict[str, list[str]]] = {}
    for name in names:
        match = _WEIGHTS.fullmatch(name)
        if match and match["part"] in _PARTS:
            variant = _VARIANT.search(match["file"])
            kind = variant["variant"] if variant else ""
            if kind in ("", "fp16"):
                weights.setdefault(match["part"], {}).setdefault(kind, []).append(name)
    chosen = [name for name in names if _CONFIGS.fullmatch(name) and ".index." not in name]
    missing = [part for part in _PARTS if f"{part}/config.json" in names and not weights.get(part)]
    if missing:
        raise SettingsError(
            msg(
                "{where} has no .safetensors weights of its {missing}",
                where=where,
                missing=", ".join(missing),
            ),
            fix=msg("take a model that is saved as .safetensors (not .bin, which can run code)"),
        )
    for found in weights.values():
        chosen += _of_one_part(found)
    return tuple(sorted(chosen))


def _of_one_part(found: Mapping[str, list[str]]) -> list[str]:
    files = found.get("") or found["fp16"]
    single = [name for name in files if _SINGLE.search(name)]
    return single[:1] or files


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:6])
    return shown + (msg(" and {n} more", n=len(names) - 6) if len(names) > 6 else "")

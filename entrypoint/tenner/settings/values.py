"""How a value may be written: what a TOML file, an environment variable or a flag can hold.

Environment variables and flags are always text, and people paste what other tools accept, so
each type here takes the field's usual spellings and refuses the rest with the expected form.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field

from tenner.core.addresses import Address
from tenner.core.json_text import parse_json
from tenner.core.messages import msg

SMALLEST_SIDE = 16
"""Pixels: two latents, the smallest input of the tiny base's U-Net."""
LARGEST_SIDE = 8192
"""Pixels: more than any card can train at."""

Scalar = str | int | float | bool


def _switch(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True}
    words |= {"false": False, "0": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str) and str(value).strip().lower() in words:
        return words[str(value).strip().lower()]
    raise ValueError(msg("expected true or false"))


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(msg("expected a number, not true or false"))  # noqa: TRY004 pydantic wants ValueError
    if isinstance(value, str):
        text = value.strip().replace("_", "")
        if re.fullmatch(r"[+-]?\d+,\d+", text):
            raise ValueError(
                msg("decimals are written with a point: {text}", text=text.replace(",", "."))
            )
        return text
    return value


def _words(separator: str) -> BeforeValidator:
    """A list of strings, also from one string split at `separator` or written as a JSON list."""

    def split(value: Any) -> Any:
        if not isinstance(value, str):
            return cast("Sequence[Any]", value) if _is_list(value) else [str(value)]
        if value.lstrip().startswith("["):
            return _json_list(value)
        return [part.strip() for part in re.split(separator, value) if part.strip()]

    return BeforeValidator(split)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _trackers(value: Any) -> Any:
    """Names of trackers as a list; `all` is sd-scripts' word for its two."""
    names = ["tensorboard", "wandb"] if value == "all" else value
    return [] if names in (None, "", "none") else names


def _json_list(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        raise ValueError(msg('expected a list such as ["one", "two"]')) from None


def _pair(value: Any) -> Any:
    """`512`, `"512"`, `"512,768"`, `"512x768"` and `[512, 768]` as (width, height)."""
    if isinstance(value, bool):
        raise ValueError(msg("expected a size such as 512 or 512,768"))  # noqa: TRY004
    if isinstance(value, str):
        value = [part for part in re.split(r"[,x×* ]+", value.strip()) if part]
    parts = (
        [str(part) for part in cast("Sequence[Any]", value)] if _is_list(value) else [str(value)]
    )
    if len(parts) not in (1, 2) or not all(re.fullmatch(r"\d+", part) for part in parts):
        raise ValueError(msg("expected a size such as 512 or 512,768 (width,height)"))
    size = (int(parts[0]), int(parts[-1]))
    if min(size) < SMALLEST_SIDE or max(size) > LARGEST_SIDE:
        raise ValueError(
            msg(
                "expected sides of {smallest_side} to {largest_side} pixels",
                smallest_side=SMALLEST_SIDE,
                largest_side=LARGEST_SIDE,
            )
        )
    return size


def _colour(value: Any) -> str:
    """A colour as Pillow reads it."""
    from PIL import ImageColor  # only for those who set one

    try:
        ImageColor.getrgb(str(value))
    except ValueError:
        raise ValueError(msg('expected a colour such as "white", "gray" or "#ff8800"')) from None
    return str(value)


def _steps_or_ratio(value: Any) -> Any:
    """Whole numbers of 1 and more are steps, numbers below 1 a share of all steps."""
    value = _number(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(msg("expected steps (100) or a share of all steps (0.1)")) from None
    if number >= 1 and number != int(number):
        raise ValueError(msg("expected whole steps (100) or a share of all steps below 1 (0.1)"))
    return int(number) if number >= 1 or number == 0 else number


def _engine(value: Any) -> Any:
    """`diffusers` is the earlier name of the built-in trainer, accepted for settings that have
    it."""
    return "native" if value == "diffusers" else value


def _digits(value: Any) -> Any:
    """Digits as a number: flags and variables are text, and pydantic matches text with no choice of
    numbers (`Literal[75, 150]`)."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _batch(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() in ("auto", "max"):
        return value.strip().lower()
    number = _number(value)
    if not re.fullmatch(r"[1-9]\d{0,4}", str(number)):
        raise ValueError(msg('expected "auto", "max" or a whole number of images up to 99999'))
    return int(number)


Switch = Annotated[bool, BeforeValidator(_switch)]
Whole = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Rate = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1, allow_inf_nan=False)]
Colour = Annotated[str, BeforeValidator(_colour)]
Size = Annotated[tuple[int, int], BeforeValidator(_pair)]
StepsOrRatio = Annotated[int | float, BeforeValidator(_steps_or_ratio), Field(ge=0, le=10_000_000)]
TokenLength = Annotated[Literal[75, 150, 225], BeforeValidator(_digits)]
Engine = Annotated[Literal["auto", "sd-scripts", "native"], BeforeValidator(_engine)]
BatchSize = Annotated[int | Literal["auto", "max"], BeforeValidator(_batch)]
Arguments = Annotated[tuple[str, ...], _words(r"\s+")]
Lines = Annotated[tuple[str, ...], _words(r"\n")]
AddressValue = Annotated[str, AfterValidator(Address)]
"""A local path, a known name or an address, whose credentials are stored apart from its text."""
Addresses = Annotated[tuple[AddressValue, ...], _words(r"[\s,]+")]
TrackerName = Literal[
    "tensorboard",
    "wandb",
    "comet_ml",
    "mlflow",
    "aim",
    "clearml",
    "dvclive",
    "swanlab",
    "trackio",
]
Trackers = Annotated[tuple[TrackerName, ...], _words(r"[\s,]+"), BeforeValidator(_trackers)]
"""Names of accelerate's trackers."""
Numbers = Annotated[tuple[Number, ...], _words(r"[\s,]+")]
WholeNumbers = Annotated[tuple[Whole, ...], _words(r"[\s,]+")]
Rates = Annotated[tuple[Rate, ...], _words(r"[\s,]+"), Field(min_length=1, max_length=2)]

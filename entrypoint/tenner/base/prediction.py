"""What a base was trained to predict, and under which noise, by every source that states it.

A base that predicts v and is trained as if it predicted noise gives a LoRA that spoils every
picture, without any error. Sources, strongest first: tensors that are there as markers,
a scheduler's configuration, the checkpoint's metadata, a configuration file beside it, the hash or
the name of a well-known model. Pure but for small files and, where a file has exactly the size of a
known one, its hash.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from tenner.core.errors import SettingsError
from tenner.core.messages import msg

Prediction = Literal["epsilon", "v_prediction", "flow"]
"""`flow` is what the families with a transformer predict, all of them."""

SCHEDULER_FILE = "scheduler/scheduler_config.json"

PREDICTION_NAMES: dict[Prediction, str] = {
    "epsilon": "noise",
    "v_prediction": "v",
    "flow": msg("the flow from noise to picture"),
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one source states, and which source it is.

    `is_firm`: the model itself states it (a tensor, its scheduler), not its name or its metadata.
    """

    prediction: Prediction
    where: str
    zero_terminal_snr: bool = False
    is_firm: bool = False


@dataclass(frozen=True, kw_only=True)
class KnownPrediction:
    """A well-known model, by its names or by the one file that has this size and hash."""

    pattern: str
    prediction: Prediction
    zero_terminal_snr: bool = False
    num_bytes: int = 0
    sha256: str = ""


KNOWN_PREDICTIONS = (
    KnownPrediction(  # huggingface.co/Laxhar/noobai-XL-Vpred-1.0, its model card
        pattern=r"noob.{0,12}v[-_ ]?pred",
        prediction="v_prediction",
        zero_terminal_snr=True,
        num_bytes=7_105_350_110,
        sha256="ea349eeae87ca8d25ba902c93810f7ca83e5c82f920edf12f273af004ae02819",
    ),
    KnownPrediction(pattern=r"terminus-?xl", prediction="v_prediction", zero_terminal_snr=True),
    KnownPrediction(pattern=r"easy-?fluff", prediction="v_prediction", zero_terminal_snr=True),
    KnownPrediction(
        pattern=r"(?:zero-?terminal|terminal|zt?)-?snr.{0,8}v[-_ ]?pred",
        prediction="v_prediction",
        zero_terminal_snr=True,
    ),
    KnownPrediction(pattern=r"(?<![a-z])v[-_ ]?pred", prediction="v_prediction"),
    KnownPrediction(pattern=r"(?<![a-z])eps(?:ilon)?[-_ ]?pred", prediction="epsilon"),
    KnownPrediction(pattern=r"v1-5-pruned|sd_xl_base_1\.0", prediction="epsilon"),
    KnownPrediction(pattern=r"v2-1_768|768-v-ema", prediction="v_prediction"),
    KnownPrediction(pattern=r"v2-1_512|512-base-ema", prediction="epsilon"),
)
"""The first whose name fits counts."""


@dataclass(frozen=True, kw_only=True)
class NoiseBetas:
    """The noise schedule of a base. The defaults are Stable Diffusion's, which are all that
    sd-scripts can make (train_network.py, `get_noise_scheduler`)."""

    start: float = 0.00085
    end: float = 0.012
    schedule: str = "scaled_linear"
    num_steps: int = 1000

    @property
    def is_usual(self) -> bool:
        return self == USUAL_BETAS

    def __str__(self) -> str:
        return msg(
            "betas {start} to {end}, {schedule}, {num_steps} steps",
            start=f"{self.start:g}",
            end=f"{self.end:g}",
            schedule=self.schedule,
            num_steps=self.num_steps,
        )


USUAL_BETAS = NoiseBetas()


def settled(found: Sequence[Evidence]) -> tuple[Prediction | None, str]:
    """The prediction that all evidence agrees on, and its first source.

    Where sources differ: None and a text that lists them. Without evidence: None and "".
    """
    if not found:
        return None, ""
    if all(each.prediction == found[0].prediction for each in found):
        return found[0].prediction, found[0].where
    texts = [
        msg(
            "according to {where} it predicts {prediction_names}",
            where=each.where,
            prediction_names=PREDICTION_NAMES[each.prediction],
        )
        for each in found
    ]
    return None, ", ".join(texts)


def evidence_in_checkpoint(
    path: Path, name: str, header: Mapping[str, Any], *, sha256: str | None = None
) -> list[Evidence]:
    """All evidence in and about a single file; `sha256` is its hash where that is known without
    reading it, empty where it cannot be. Raises SettingsError for a kind that no trainer
    supports."""
    found = [*_marks(path, header), *_metadata(header.get("__metadata__") or {})]
    found += _configuration_beside(path)
    by_name = list(_names(path.stem, name))
    return [*found, *(by_name or ([] if found else _hash(path, sha256)))]


def evidence_in_folder(path: Path, name: str, scheduler: Mapping[str, Any]) -> list[Evidence]:
    """All evidence in and about a diffusers folder; `scheduler` is its scheduler's
    configuration. Raises SettingsError for a kind that no trainer supports."""
    kind = scheduler.get("prediction_type", "epsilon" if scheduler else None)
    found: list[Evidence] = []
    if kind in ("epsilon", "v_prediction"):
        snr = bool(scheduler.get("rescale_betas_zero_snr", False))
        where = "its scheduler"
        found.append(Evidence(prediction=kind, where=where, zero_terminal_snr=snr, is_firm=True))
    elif kind is not None:
        raise SettingsError(
            msg(
                "{path}: the model predicts {kind}; tenner trains models that predict"
                " epsilon or v_prediction",
                path=path / SCHEDULER_FILE,
                kind=repr(str(kind)[:40]),
            ),
            fix=msg("take another base model"),
        )
    return [*found, *_names(path.name, name)]


def betas_of(path: Path, scheduler: Mapping[str, Any]) -> NoiseBetas:
    """The noise schedule that a scheduler's configuration describes; what it leaves out is Stable
    Diffusion's. Raises SettingsError for one that no trainer knows."""
    usual = USUAL_BETAS
    schedule = str(scheduler.get("beta_schedule", usual.schedule))
    if scheduler.get("trained_betas") is not None or schedule not in ("scaled_linear", "linear"):
        kind = "trained_betas" if scheduler.get("trained_betas") is not None else schedule
        raise SettingsError(
            msg(
                "{path}: no trainer here knows the noise schedule of its scheduler ({kind})",
                path=path,
                kind=kind,
            ),
            fix=msg("take the base that it was made from"),
        )
    try:
        found = NoiseBetas(
            start=float(scheduler.get("beta_start", usual.start)),
            end=float(scheduler.get("beta_end", usual.end)),
            schedule=schedule,
            num_steps=int(scheduler.get("num_train_timesteps", usual.num_steps)),
        )
    except (TypeError, ValueError, OverflowError):
        found = NoiseBetas(num_steps=0)
    if not (0 < found.start <= found.end < 1 and 1 <= found.num_steps <= 100_000):
        raise SettingsError(
            msg(
                "{path}: beta_start, beta_end and num_train_timesteps make no sense",
                path=path / SCHEDULER_FILE,
            ),
            fix=msg("download it again"),
        )
    return found


def _marks(path: Path, header: Mapping[str, Any]) -> Iterator[Evidence]:
    """Marker tensors that state what a file predicts, as ComfyUI reads them
    (comfy/supported_models.py, SDXL)."""
    if "edm_vpred.sigma_max" in header or "edm_mean" in header:
        raise SettingsError(
            msg("{path} is trained on EDM's noise levels (CosXL, Playground 2.5)", path=path),
            fix=msg("take a base that predicts noise or v: no trainer here can train this one"),
        )
    if "v_pred" in header:
        snr = "ztsnr" in header
        where = msg("its tensor v_pred")
        yield Evidence(prediction="v_prediction", where=where, zero_terminal_snr=snr, is_firm=True)


def _metadata(metadata: object) -> Iterator[Evidence]:
    """The words of Stability's ModelSpec: `prediction_type`, and `architecture` of SD 2.x."""
    if not isinstance(metadata, Mapping):
        return
    entries = cast("Mapping[str, object]", metadata)
    prediction_type = str(entries.get("modelspec.prediction_type") or "").strip().lower()
    if prediction_type in ("epsilon", "eps"):
        yield Evidence(prediction="epsilon", where=msg("its metadata (modelspec.prediction_type)"))
    elif prediction_type in ("v", "v_prediction", "v-prediction", "vpred", "v_pred"):
        yield Evidence(
            prediction="v_prediction", where=msg("its metadata (modelspec.prediction_type)")
        )
    architecture = str(entries.get("modelspec.architecture") or "").lower()
    if architecture.startswith("stable-diffusion-v2-768-v"):
        yield Evidence(
            prediction="v_prediction", where=msg("its metadata (modelspec.architecture)")
        )
    elif architecture.startswith("stable-diffusion-v2-512"):
        yield Evidence(prediction="epsilon", where=msg("its metadata (modelspec.architecture)"))


def _configuration_beside(path: Path) -> Iterator[Evidence]:
    """`model.yaml` beside `model.safetensors`, as web UIs expect it for models that predict v."""
    file = path.with_suffix(".yaml")
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    except OSError:
        return
    found = re.search(r"^\s*parameterization:\s*[\"']?(v|eps)\b", text[:20_000], re.MULTILINE)
    if found:
        prediction: Prediction = "v_prediction" if found[1] == "v" else "epsilon"
        yield Evidence(
            prediction=prediction, where=msg("the file {name} beside it", name=file.name)
        )


def _names(*names: str) -> Iterator[Evidence]:
    for name in names:
        for known in KNOWN_PREDICTIONS:
            if re.search(known.pattern, name, re.IGNORECASE):
                yield Evidence(
                    prediction=known.prediction,
                    where="its name",
                    zero_terminal_snr=known.zero_terminal_snr,
                )
                return


def _hash(path: Path, sha256: str | None) -> list[Evidence]:
    """A known file under another name; hashed only where its size is that file's to the byte."""
    for known in KNOWN_PREDICTIONS:
        if not known.sha256:
            continue
        if sha256 is None and path.stat().st_size == known.num_bytes:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 == known.sha256:
            snr = known.zero_terminal_snr
            return [Evidence(prediction=known.prediction, where="its hash", zero_terminal_snr=snr)]
    return []

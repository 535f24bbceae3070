"""What is known of the base weights that a run trains on: family, layout, size, prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tenner.base.prediction import (
    USUAL_BETAS,
    Evidence,
    NoiseBetas,
    Prediction,
    evidence_in_checkpoint,
    settled,
)
from tenner.base.tiny import base_dir
from tenner.core.errors import Problem
from tenner.core.family import Family
from tenner.core.messages import msg
from tenner.families import FAMILIES, FamilyFacts, KnownBase

Layout = Literal["diffusers", "checkpoint"]

SIDES: dict[Family, int] = {name: each.side for name, each in FAMILIES.items()}
"""Side in pixels that a family was made for; of SD 2.x the models that predict v."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """Base weights that are there, whole, and of a family that can be trained.

    `resolution` is the side in pixels that the base was made for. `prediction` is what it was
    trained to predict, None where nothing shows it or where sources contradict each other;
    `prediction_from` names the source of it, empty where it was only assumed.
    """

    name: str
    path: Path
    family: Family
    layout: Layout
    prediction: Prediction | None
    zero_terminal_snr: bool
    resolution: int
    num_bytes: int
    licence: str = ""
    hub_id: str = ""
    notices: tuple[Problem, ...] = ()
    prediction_from: str = ""
    contradiction: str = ""
    """Where sources differ in what it predicts: what each states."""
    is_firm: bool = False
    """`prediction` comes from the model itself: a marker tensor or its scheduler."""
    betas: NoiseBetas = USUAL_BETAS
    further: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Text encoders and autoencoder in files of their own, by the option that names them."""
    text_sizes_gb: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of text encoders in files of their own, in 1e9 bytes, whether they are here or not."""
    hub_tokenizers: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Files of tokenizers that sd-scripts looks up on the Hub, as `user/repo/file`."""

    @property
    def facts(self) -> FamilyFacts:
        """What is known of its family."""
        return FAMILIES[self.family]

    @property
    def text_gb(self) -> float | None:
        """What its text encoders have in files of their own, in 1e9 bytes; None where nothing but
        the family's usual files is known."""
        return sum(self.text_sizes_gb.values()) if self.text_sizes_gb else None

    @property
    def public_name(self) -> str:
        """What it is called outside this machine: its id on the Hub, its address, the built-in
        one's name, or the last name of its path."""
        is_address = "://" in self.name
        if self.hub_id or is_address or self.path == base_dir():
            return self.hub_id or self.name
        return self.path.absolute().name

    @property
    def is_tiny(self) -> bool:
        """Small enough that a CPU trains it in minutes, and of a family that the built-in trainer
        has: under 100 MB (SD 1.5 in fp16 has 2 GB)."""
        return 0 < self.num_bytes < 100_000_000 and "native" in self.facts.trainers


def known_shape(known: KnownBase) -> Base:
    """A known base of which no file is on this machine: its short name stands for one known file.

    No file is at its `path`, and its size is not known.
    """
    path = Path(known.hub_id, known.file)
    base = Base(
        name=known.name,
        path=path,
        family=known.family,
        layout="checkpoint",
        prediction="epsilon",
        zero_terminal_snr=False,
        resolution=SIDES[known.family],
        num_bytes=0,
        licence=known.licence,
        hub_id=known.hub_id,
    )
    return with_checkpoint_prediction(base, {}, sha256=known.sha256)


def with_checkpoint_prediction(
    base: Base, header: Mapping[str, Any], *, sha256: str | None
) -> Base:
    """`base`, a single file, with the prediction that its header or SHA-256 shows.

    Without evidence noise (epsilon) is assumed, except for SD 2.x, which has both kinds.
    """
    if base.facts.transformer:
        return replace(base, prediction="flow", prediction_from=msg("its family"), is_firm=True)
    found = evidence_in_checkpoint(base.path, base.name, header, sha256=sha256)
    base = with_evidence(base, found)
    if base.prediction is None and not base.contradiction and base.family != "sd2":
        return replace(base, prediction="epsilon")
    return base


def with_evidence(base: Base, found: Sequence[Evidence]) -> Base:
    """The base with the prediction that `found` is evidence for.

    Single files of SD 2.x that predict noise were made for 512 pixels.
    """
    prediction, texts = settled(found)
    is_sd2_base = base.family == "sd2" and base.layout == "checkpoint" and prediction == "epsilon"
    return replace(
        base,
        prediction=prediction,
        prediction_from=texts if prediction else "",
        contradiction="" if prediction else texts,
        is_firm=any(each.is_firm for each in found),
        zero_terminal_snr=any(each.zero_terminal_snr for each in found),
        resolution=512 if is_sd2_base else base.resolution,
    )

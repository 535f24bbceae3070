"""A run's facts with something in every place of the page."""

import math
import random
from pathlib import Path

import pytest
from PIL import Image

from tenner.report.facts import (
    ChoiceFact,
    ConceptFact,
    CostFacts,
    DatasetFacts,
    DatasetImage,
    FileFact,
    LossCurve,
    Notice,
    Pair,
    ReportFacts,
    SampleImage,
    SampleSet,
    SettingFact,
    TimingFact,
)


def noise_image(path: Path, size: int, seed: int = 0) -> Path:
    """A picture that does not compress."""
    draw = random.Random(seed)
    Image.frombytes("RGB", (size, size), draw.randbytes(3 * size * size)).save(path)
    return path


@pytest.fixture
def facts(tmp_path: Path) -> ReportFacts:
    small, large = noise_image(tmp_path / "s.png", 32), noise_image(tmp_path / "l.png", 600)
    draw = random.Random(0)
    losses = [0.1 + 0.06 * math.exp(-step / 500) + 0.02 * draw.random() for step in range(5000)]
    return ReportFacts(
        name="my_lora",
        state="delivered",
        trigger="sks star",
        base_name="sd15",
        lora_file="my_lora.safetensors",
        step=5000,
        num_steps=5000,
        epoch=2,
        num_epochs=2,
        curve=LossCurve(
            steps=range(1, 5001),
            losses=losses,
            learning_rates={"unet": [1e-4] * 5000},
            epoch_ends=(2500, 5000),
        ),
        sample_sets=(
            SampleSet(
                images=(
                    SampleImage(path=small, group="a prompt", row="seed 1", column="0 (base)"),
                    SampleImage(path=small, group="a prompt", row="seed 1", column="0.5"),
                    SampleImage(path=large, group="without the trigger", row="seed 1", column="1"),
                )
            ),
        ),
        dataset=DatasetFacts(
            num_images=2,
            num_captions=1,
            images=(DatasetImage(path=large, name="l.png", caption="sks star"),),
        ),
        settings=(SettingFact(name="network_dim", value="32", source="default"),),
        choices=(ChoiceFact(name="batch_size", value="4", reason="fits"),),
        machine=(Pair(name="GPU", value="RTX 4090"),),
        notices=(Notice(text="small images", fix="replace them"),),
        files=(FileFact(name="my_lora.safetensors", size_bytes=37_700_000, sha256="ab" * 32),),
        timings=(TimingFact(name="training", seconds=3725),),
        cost=CostFacts(spent_usd=0.83, max_cost_usd=10.0),
        concept=(ConceptFact(name="strength 1", distance=0.25),),
    )

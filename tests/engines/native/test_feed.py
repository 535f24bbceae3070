"""A step's samples do not depend on when they are made; text encoders are released after use."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch

from tenner.core.train_job import TrainJob
from tenner.engines.native.batches import schedule_of
from tenner.engines.native.cache import CachedBase
from tenner.engines.native.captions import draw_caption, fixed_captions
from tenner.engines.native.feed import Feed, Pass
from tenner.engines.native.latents import encode_all
from tenner.engines.native.load import load_base, load_vae
from tenner.engines.native.loop import Trainer
from tenner.engines.native.network import build_network
from tenner.engines.native.noise import NoiseSchedule
from tenner.engines.native.processes import Processes
from tenner.engines.native.progress import EventWriter

CPU = torch.device("cpu")
ALONE = Processes(rank=0, count=1, device=CPU)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make_base(tmp_path_factory.mktemp("sdxl"), "sdxl")


def make_job(base: Path, folder: Path, **changes: object) -> TrainJob:
    items = tiny_model.make_items(folder / "data")
    return tiny_model.make_job(base, folder, items, family="sdxl", **changes)


def parts(job: TrainJob, cached: CachedBase | None = None):
    loaded = load_base(job)
    latents = encode_all(job, lambda: load_vae(loaded), "vae", CPU, lambda done, total: None)
    network = build_network(job, loaded, CPU, cached)
    return job, network, NoiseSchedule(job, loaded.scheduler), latents, schedule_of(job), ALONE


def assert_same(one: list[Pass], other: list[Pass]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert first.samples is not None
        assert second.samples is not None
        assert first.samples.captions == second.samples.captions
        ours, theirs = first.samples.tensors(), second.samples.tensors()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_steps_prepared_ahead_are_the_same_in_any_order(base: Path, tmp_path: Path) -> None:
    changes = {"shuffle_caption": True, "flip_aug": True, "noise_offset": 0.1}
    job = make_job(base, tmp_path, gradient_accumulation_steps=2, max_train_steps=9, **changes)
    found = parts(job)
    ahead, now = Feed(*found, is_ahead=True), Feed(*found, is_ahead=False)
    try:
        torch.manual_seed(0)
        for step in (0, 1, 2, 7, 8, 3):  # forwards and back, as a resumed run may
            torch.rand(3)  # the global generator has no influence
            assert_same(ahead.passes(step), now.passes(step))
    finally:
        ahead.close()
        now.close()


def test_an_error_in_preparing_a_step_is_raised_by_that_step(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path)
    _, network, noise, latents, schedule, alone = parts(job)
    wrong = Feed(replace(job, max_timestep=-1), network, noise, latents, schedule, alone,
                 is_ahead=True)  # fmt: skip
    noise._job = replace(job, max_timestep=-1)
    with pytest.raises(RuntimeError):
        wrong.passes(0)
    wrong.close()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_text_encoders_are_released_where_captions_never_change(
    base: Path, tmp_path: Path, dropout: float
) -> None:
    job = make_job(base, tmp_path, network_train_unet_only=True, caption_dropout_rate=dropout)
    cached = CachedBase()
    found = parts(job, cached)
    network = found[1]
    before = cached.num_bytes
    weights = [weakref.ref(encoder._token_embedding) for _, encoder in network.texts.encoders]
    trainer = Trainer(*found, EventWriter(silent=True))
    counts: list[tuple[int, int]] = []
    assert trainer.encode_captions(lambda done, total: counts.append((done, total)))
    cached.drop_texts()
    gc.collect()
    assert [each() for each in weights] == [None, None]
    assert cached.num_bytes < before
    assert counts[-1] == (6 + (dropout > 0),) * 2
    trainer._one_step()


def test_text_encoders_stay_where_captions_change_or_they_are_trained(
    base: Path, tmp_path: Path
) -> None:
    for changes in ({"shuffle_caption": True, "network_train_unet_only": True}, {}):
        found = parts(make_job(base, tmp_path, **changes))
        trainer = Trainer(*found, EventWriter(silent=True))
        assert not trainer.encode_captions(lambda done, total: None)
        assert len(found[1].texts.encoders) == 2


def test_every_caption_of_the_training_is_listed(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path, caption_dropout_rate=0.5, keep_tokens_separator="|||")
    items = tuple(replace(each, caption=f"a ||| {each.caption}\nsecond") for each in job.items)
    job = replace(job, items=items)
    listed = fixed_captions(job)
    assert listed is not None
    shown = {
        draw_caption(job, item.caption, epoch=epoch, position=number)
        for epoch in range(2)
        for number in range(20)
        for item in job.items
    }
    assert shown == set(listed)
    assert fixed_captions(replace(job, enable_wildcard=True)) is None
    assert fixed_captions(replace(job, caption_tag_dropout_rate=0.1)) is None

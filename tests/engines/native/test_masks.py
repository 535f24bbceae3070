"""Masked loss: a picture's alpha weights the loss of each position, as in sd-scripts."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_model
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tenner.core.errors import SettingsError
from tenner.core.events import Event, Step
from tenner.core.train_job import TrainItem, TrainJob
from tenner.engines.native import engine
from tenner.engines.native.latents import Encoded, encode_all, masks_of
from tenner.planning.judging import judge_request
from tenner.settings import load_request


class StandInVae:
    """Returns latents an eighth as large, and stores the pixels it was called with."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.scaling_factor, self.shift_factor = 1.0, 0.0

    def to(self, device: torch.device) -> "StandInVae":
        return self

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(pixels)
        _, _, height, width = pixels.shape
        mean = torch.zeros(1, 4, height // 8, width // 8)
        return mean, mean


def views(tmp_path: Path, image: Image.Image, **changes: object) -> tuple[list[Encoded], Tensor]:
    """The views of one picture, and the pixels of the first."""
    path = tmp_path / "picture.png"
    image.save(path)
    item = TrainItem(image=str(path), caption="a", bucket=(32, 16), resized=image.size)
    job = tiny_model.make_job(tmp_path, tmp_path / "out", (item,), **changes)
    vae = StandInVae()
    cache = encode_all(job, lambda: vae, "v", torch.device("cpu"), lambda done, total: None)
    return cache._views[0], vae.seen[0]


def left_half_hidden() -> Image.Image:
    """Red, 32x16; its left half is masked, and the column beside it by three quarters."""
    image = Image.new("RGBA", (32, 16), (255, 0, 0, 255))
    image.paste((255, 0, 0, 0), (0, 0, 16, 16))
    image.paste((255, 0, 0, 64), (16, 0, 24, 16))
    return image


def test_the_alpha_becomes_a_mask_of_the_latents_size_and_is_mirrored_with_the_picture(
    tmp_path: Path,
) -> None:
    (plain, mirrored), pixels = views(tmp_path, left_half_hidden(), alpha_mask=True, flip_aug=True)
    assert plain.mask is not None
    assert mirrored.mask is not None
    expected = torch.tensor([0.0, 0.0, 64 / 255, 1.0])
    assert torch.allclose(plain.mask, expected.expand(2, 4))
    assert torch.allclose(mirrored.mask, expected.flip(0).expand(2, 4))
    assert pixels[0, 1].max() == -1.0  # no white shows through: the hidden half is red as stored


def test_without_the_option_transparent_parts_are_white_and_count(tmp_path: Path) -> None:
    (view,), pixels = views(tmp_path, left_half_hidden())
    assert view.mask is None
    assert pixels[0, 1, 0, 0] == 1.0


def test_a_picture_without_alpha_has_a_mask_of_ones_beside_masked_ones(tmp_path: Path) -> None:
    (masked,), _ = views(tmp_path, left_half_hidden(), alpha_mask=True)
    (whole,), _ = views(tmp_path, Image.new("RGB", (32, 16)), alpha_mask=True)
    assert whole.mask is None
    found = masks_of([masked, whole], torch.device("cpu"))
    assert found is not None
    assert found.shape == (2, 1, 2, 4)
    assert found[1].min() == 1.0
    assert masks_of([whole], torch.device("cpu")) is None


def losses(job: TrainJob) -> list[float]:
    out = Path(job.output_dir)
    out.mkdir(parents=True)
    path = out / "job.json"
    path.write_text(job.to_json())
    command = engine.command(path, Path(sys.executable))
    done = subprocess.run(
        command.argv, env={**os.environ, **command.env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    events: list[Event | None] = [engine.read(line) for line in done.stdout.splitlines()]
    return [event.loss for event in events if isinstance(event, Step)]


def test_masked_parts_have_no_loss(tmp_path: Path) -> None:
    base = tiny_model.make_base(tmp_path / "base")
    hidden = tiny_model.make_items(tmp_path / "data", 2)
    for item in hidden:
        with Image.open(item.image) as image:
            picture = image.convert("RGBA")
        picture.putalpha(0)
        picture.save(item.image)
    job = tiny_model.make_job(base, tmp_path / "hidden", hidden, alpha_mask=True, max_train_steps=2)
    assert losses(job) == [0.0, 0.0]
    weights = load_file(tmp_path / "hidden" / "lora.safetensors")
    assert all(not weights[name].any() for name in weights if name.endswith("lora_up.weight"))
    shown = replace(job, alpha_mask=False, output_dir=str(tmp_path / "shown"))
    assert all(loss > 0 for loss in losses(replace(shown, state_dir=str(tmp_path / "s"))))


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({"alpha_mask": True}, ""),
        ({"alpha_mask": True, "masked_loss": True}, ""),
        ({"masked_loss": True}, "masked_loss finds no masks"),
    ],
)
def test_the_built_in_trainer_takes_masks_by_sd_scripts_names(
    options: dict[str, bool], reported: str
) -> None:
    flags = {"dataset": "there", **options}
    if reported:
        with pytest.raises(SettingsError, match=reported):
            load_request(flags, {}, read_default_config=False)
    else:
        request = load_request(flags, {}, read_default_config=False)
        assert judge_request(request, trainer="native", family="sd1") == ()

"""Training the text encoder and U-Net: one endless set of pictures, a state every few minutes.

Every step's pictures, timesteps and noise are a function of (seed, step), so a run that was
killed resumes from its last state with the same result.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import CLIPTokenizer

from .model import TextToLatents, build_scheduler, latents_of, load_tokenizer, tokens
from .pictures import draw_picture
from .training_pictures import draw_training_picture
from .vocabulary import save_vocabulary

WARMUP_STEPS = 100
VALIDATION_SEED = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast. The learning rate holds, then falls to zero in the last part."""

    num_steps: int = 6000
    batch_size: int = 32
    learning_rate: float = 2e-3
    decay_part: float = 0.4
    ema_decay: float = 0.998
    seed: int = 0
    save_every_seconds: float = 120.0

    def rate(self, step: int) -> float:
        """Learning rate at this step: warm-up, plateau, linear descent."""
        descent = (self.num_steps - step) / (self.decay_part * self.num_steps)
        return self.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS, max(descent, 0.0))


class Run:
    """The whole state of a training run; `save` and `load` round-trip all of it."""

    def __init__(self, folder: Path, recipe: Recipe, device: str) -> None:
        self.folder, self.recipe, self.device = folder, recipe, device
        save_vocabulary(folder / "tokenizer")
        self.tokenizer = load_tokenizer(folder / "tokenizer")
        self.scheduler = build_scheduler()
        torch.manual_seed(recipe.seed)
        self.model = TextToLatents(self.tokenizer).to(device)
        self.ema = [p.detach().clone() for p in self.model.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.learning_rate, weight_decay=0.01, fused=True
        )
        self.step = 0
        self.seconds = 0.0

    @property
    def state_path(self) -> Path:
        return self.folder / "state.pt"

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.state_path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.state_path)

    def load(self) -> None:
        if self.state_path.exists():
            state = torch.load(self.state_path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.ema = state["ema"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    def start_from(self, base: Path) -> None:
        """Take the weights of an exported base."""
        unet = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
        text = load_file(base / "text_encoder" / "model.safetensors")
        own = self.model.text_encoder.state_dict()
        named = {key if key in own else key.removeprefix("text_model."): text[key] for key in text}
        self.model.unet.load_state_dict({key: each.float() for key, each in unet.items()})
        self.model.text_encoder.load_state_dict({key: each.float() for key, each in named.items()})
        self.ema = [p.detach().clone() for p in self.model.parameters()]

    def averaged(self) -> TextToLatents:
        """A copy of the model with the averaged (EMA) weights."""
        copy = TextToLatents(self.tokenizer).to(self.device).eval()
        with torch.no_grad():
            for own, mean in zip(copy.parameters(), self.ema, strict=True):
                own.copy_(mean)
        return copy


def train(
    folder: Path, recipe: Recipe, device: str = "cpu", start_from: Path | None = None
) -> None:
    """Train, or resume training, in `folder`; `log.jsonl` there gets a line per state.

    A run that has no state yet begins with the weights of the exported base `start_from`, if any.
    """
    run = Run(folder, recipe, device)
    if start_from and not run.state_path.exists():
        run.start_from(start_from)
    run.load()
    losses: list[torch.Tensor] = []
    started = saved = time.monotonic()
    seconds_before = run.seconds
    for step in range(run.step, recipe.num_steps):
        losses.append(_take_step(run, step))
        run.step = step + 1
        now = time.monotonic()
        if now - saved > recipe.save_every_seconds or run.step == recipe.num_steps:
            run.seconds = seconds_before + now - started
            run.save()
            _log(run, float(torch.stack(losses).mean()))
            losses.clear()
            saved = time.monotonic()


def validation_v_mse(model: TextToLatents, tokenizer: CLIPTokenizer, *, num: int = 256) -> float:
    """Mean squared error of the velocity on pictures no training step ever drew."""
    scheduler = build_scheduler()
    errors: list[float] = []
    with torch.no_grad():
        for batch in _batches(num, 64):
            noisy, target, at, ids = _example(scheduler, tokenizer, VALIDATION_SEED, batch)
            predicted = model(noisy, at, ids)
            errors.append(float(F.mse_loss(predicted, target)))
    return sum(errors) / len(errors)


def _take_step(run: Run, step: int) -> torch.Tensor:
    recipe = run.recipe
    batch = range(step * recipe.batch_size, (step + 1) * recipe.batch_size)
    example = _example(run.scheduler, run.tokenizer, recipe.seed, batch)
    noisy, target, at, ids = (tensor.to(run.device) for tensor in example)
    loss = F.mse_loss(run.model(noisy, at, ids), target)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate(step)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    decay = min(recipe.ema_decay, (step + 1) / (step + 10))
    torch._foreach_lerp_(run.ema, [p.detach() for p in run.model.parameters()], 1 - decay)
    return loss.detach()


def _example(
    scheduler: DDIMScheduler, tokenizer: CLIPTokenizer, seed: int, batch: range
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, their velocity, timesteps and token ids; all from (seed, batch)."""
    draw = draw_picture if seed == VALIDATION_SEED else draw_training_picture
    pictures = [draw(seed, index) for index in batch]
    generator = torch.Generator().manual_seed(seed * 1_000_000_007 + batch.start)
    latents = latents_of([picture.cells for picture in pictures])
    noise = torch.randn(latents.shape, generator=generator)
    # One timestep from each equal slice of the schedule: the loss is steadier than with
    # independent draws.
    slices = torch.randperm(len(pictures), generator=generator)
    within = torch.rand(len(pictures), generator=generator)
    at = ((slices + within) / len(pictures) * 1000).long()
    noisy = scheduler.add_noise(latents, noise, at)
    velocity = scheduler.get_velocity(latents, noise, at)
    return noisy, velocity, at, tokens(tokenizer, [picture.caption for picture in pictures])


def _batches(num: int, size: int) -> Iterator[range]:
    for start in range(0, num, size):
        yield range(start, min(start + size, num))


def _log(run: Run, loss: float) -> None:
    line = {
        "step": run.step,
        "pictures": run.step * run.recipe.batch_size,
        "minutes": round(run.seconds / 60, 1),
        "loss": round(loss, 4),
        "v_mse": round(validation_v_mse(run.averaged().cpu(), run.tokenizer), 4),
        "rate": run.recipe.rate(run.step),
    }
    print(json.dumps(line), flush=True)
    with (run.folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")

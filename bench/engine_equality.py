"""The numbers of both trainers side by side: the same base, LoRA, captions, latents and noise.

    python -m bench.engine_equality BASE

BASE is a Stable Diffusion 1.x in diffusers layout (random weights do). Needs SD_SCRIPTS_DIR and
TENNER_TRAINER_PYTHON, and 10 GB of memory. Nothing is trained: one forward and backward pass of a
batch of two in fp32 by each trainer's own code, then what they make of it. A difference is the
largest one of all numbers, divided by the largest of sd-scripts' numbers.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

CAPTIONS = ("a photo of sks star, red ground", "sks star on blue ground, " * 9)
BATCH, SIDE, RANK = 2, 8, 8
"""Latents of 64 px pictures."""


def main() -> None:
    """Compare in the trainer's Python, where both trainers can be imported."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", type=Path)
    arguments = parser.parse_args()
    if "SD_SCRIPTS_DIR" not in os.environ or "TENNER_TRAINER_PYTHON" not in os.environ:
        sys.exit("set SD_SCRIPTS_DIR and TENNER_TRAINER_PYTHON")
    root = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root), str(root / "entrypoint"), os.environ["SD_SCRIPTS_DIR"]])
    code = "import sys; from bench.engine_equality import compare; compare(sys.argv[1])"
    environ = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    python = os.environ["TENNER_TRAINER_PYTHON"]
    command = [python, "-c", code, str(arguments.base.absolute())]
    sys.exit(subprocess.run(command, env=environ, check=False).returncode)


def compare(base: str) -> None:
    """Print the table."""
    import torch

    torch.manual_seed(0)
    given = {
        "noisy": torch.randn(BATCH, 4, SIDE, SIDE),
        "target": torch.randn(BATCH, 4, SIDE, SIDE),
        "timesteps": torch.tensor([7, 801]),
    }
    with TemporaryDirectory() as folder:
        lora = Path(folder) / "lora.safetensors"
        ours = _ours(base, lora, given)
        theirs = _theirs(base, lora, given)
    print("| what | numbers | largest of sd-scripts | largest difference |")
    print("| ---- | ------: | --------------------: | -----------------: |")
    for name, expected in theirs.items():
        found = ours[name].double()
        largest = float(expected.double().abs().max())
        apart = float((found - expected.double()).abs().max()) / max(largest, 1e-30)
        print(f"| {name} | {expected.numel():,} | {largest:.4g} | {apart:.1e} |")


def _ours(base: str, lora: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What tenner's own trainer makes of it; leaves its LoRA in a file."""
    import torch

    from tenner.core.train_job import TrainItem, TrainJob
    from tenner.engines.native.load import load_base
    from tenner.engines.native.lora_file import lora_tensors, write_lora
    from tenner.engines.native.network import build_network
    from tenner.engines.native.noise import NoiseSchedule

    item = TrainItem(image="", caption="", bucket=(64, 64), resized=(64, 64))
    job = TrainJob(
        base=base,
        family="sd1",
        items=(item,),
        output_dir="",
        output_name="",
        state_dir="",
        network_dim=RANK,
        network_alpha=RANK / 2,
        min_snr_gamma=5.0,
    )
    loaded = load_base(job)
    network = build_network(job, loaded, torch.device("cpu"))
    bank, noise = network.bank, NoiseSchedule(job, loaded.scheduler)
    with torch.no_grad():
        for _, _, up in bank.named_views(bank.weights):
            up.normal_(std=0.02)
    bank.refresh()
    write_lora(lora, lora_tensors(bank, "float"), {})
    bank.begin_pass(first=True, num_samples=BATCH)
    context = network.texts.encode(CAPTIONS).context
    channels_last = given["noisy"].to(memory_format=network.memory_format)
    answer = network.unet(channels_last, given["timesteps"], context, None)
    loss = (answer.float() - given["target"]).square().mean()
    loss.backward()
    bank.end_pass(first=True)
    gradients = {spec.name: (down, up) for spec, down, up in bank.named_views(bank.grads)}
    return _found(
        context, answer, loss, gradients, noise.alphas, torch.tensor(
            [noise.weight(timestep) for timestep in range(len(noise.alphas))]
        )
    )  # fmt: skip


def _theirs(base: str, lora: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What sd-scripts makes of it."""
    import torch
    from library import custom_train_functions, strategy_sd, train_util
    from networks import lora as lora_module
    from train_network import NetworkTrainer

    from tenner.base.tokenizers import write_clip_tokenizers

    args = SimpleNamespace(
        pretrained_model_name_or_path=base, vae=None, v2=False, zero_terminal_snr=False
    )
    text_encoder, vae, unet, _ = train_util._load_target_model(args, torch.float32)
    text_encoder, unet = text_encoder.float().eval(), unet.float().eval()
    network = lora_module.create_network(1.0, RANK, RANK / 2, vae, text_encoder, unet)
    network.apply_to(text_encoder, unet, True, True)
    network.load_weights(str(lora))
    for each in (text_encoder, unet):
        each.requires_grad_(False)
    network.requires_grad_(True)
    tokenizers = str(write_clip_tokenizers(lora.parent / "tokenizers"))
    tokens = strategy_sd.SdTokenizeStrategy(False, None, tokenizers)
    encoding = strategy_sd.SdTextEncodingStrategy(None)
    ids = tokens.tokenize(list(CAPTIONS))
    (context,) = encoding.encode_tokens(tokens, [text_encoder], ids)
    answer = unet(given["noisy"], given["timesteps"], context).sample
    loss = torch.nn.functional.mse_loss(answer.float(), given["target"])
    loss.backward()
    gradients = {
        each.lora_name: (each.lora_down.weight.grad, each.lora_up.weight.grad)
        for each in (*network.text_encoder_loras, *network.unet_loras)
    }
    noise = NetworkTrainer().get_noise_scheduler(args, torch.device("cpu"))
    steps = torch.arange(len(noise.alphas_cumprod))
    weights = custom_train_functions.apply_snr_weight(torch.ones(len(steps)), steps, noise, 5.0)
    return _found(context, answer, loss, gradients, noise.alphas_cumprod, weights)


def _found(
    context: Any, answer: Any, loss: Any, gradients: Mapping[str, Any], alphas: Any, weights: Any
) -> dict[str, Any]:
    import torch

    def joined(start: str, which: int) -> Any:
        names = sorted(name for name in gradients if name.startswith(start))
        return torch.cat([gradients[name][which].flatten() for name in names])

    return {
        "text: hidden states": context.detach(),
        "U-Net: answer": answer.detach(),
        "loss": loss.detach(),
        "gradients of lora_down, U-Net": joined("lora_unet", 0),
        "gradients of lora_up, U-Net": joined("lora_unet", 1),
        "gradients of lora_down, text": joined("lora_te", 0),
        "gradients of lora_up, text": joined("lora_te", 1),
        "noise schedule: 1,000 alphas": alphas,
        "weights of min-SNR 5": weights,
    }


if __name__ == "__main__":
    main()

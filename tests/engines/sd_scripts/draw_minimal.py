"""Pictures of shrunken models by sd-scripts' `*_minimal_inference.py`, in the trainer's Python.

`python draw_minimal.py lora REAL JOB.json FILE` writes a LoRA of all that sd-scripts adapts;
`python draw_minimal.py draw REAL JOB.json OUT` draws each cell of the job as the numbers 0 to 255
of its picture in `OUT`, with the LoRA merged and all numbers in float32.
"""

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shrunken
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tenner.sample.job import Cell, SampleJob


class Float32:
    """`torch` for a module whose precision is written in its code."""

    bfloat16 = float16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def write_lora(job: SampleJob, file: str) -> None:
    """Random, large enough to be seen in the pictures."""
    import importlib

    from tenner.sample.load import load_pipeline

    pipe = load_pipeline(replace(job, lora=None))
    networks = importlib.import_module(pipe.networks)
    encoders = pipe.lora_encoders
    network = networks.create_network(1.0, 2, 1.0, None, encoders, pipe.transformer)
    network.apply_to(encoders, pipe.transformer)
    torch.manual_seed(2)
    save_file(
        {
            name: each if name.endswith("alpha") else torch.randn(each.shape) * 0.2
            for name, each in network.state_dict().items()
        },
        file,
    )


def lumina(job: SampleJob, cell: Cell, folder: Path) -> None:
    import lumina_minimal_inference as inference
    from library import lumina_util
    from networks import lora_lumina

    model = lumina_util.load_lumina_model(job.base, torch.float32, "cpu")
    gemma2 = lumina_util.load_gemma2(job.further["gemma2"], torch.float32, "cpu")
    ae = lumina_util.load_ae(job.further["ae"], torch.float32, "cpu")
    if cell.strength:
        weights = load_file(str(job.lora))
        network, _ = lora_lumina.create_network_from_weights(
            cell.strength, None, ae, [gemma2], model, weights, True
        )
        network.merge_to([gemma2], model, weights)
    args = inference.setup_parser().parse_args(
        ["--pretrained_model_name_or_path", "", "--gemma2_path", "", "--ae_path", ""]
    )
    args.dtype = args.gemma2_dtype = args.ae_dtype = "float"
    args.output_dir = str(folder)
    inference.generate_image(
        model,
        gemma2,
        ae,
        cell.prompt,
        job.options["system_prompt"],
        cell.seed,
        job.width,
        job.height,
        job.steps,
        job.guidance_scale,
        cell.negative_prompt,
        args,
    )


def arguments(inference: Any, job: SampleJob, cell: Cell, folder: Path, encoder: str) -> Namespace:
    """What the script would be called with."""
    words = ["", "--dit", job.base, "--vae", job.further["vae"], "--text_encoder", encoder]
    words += ["--image_size", str(job.height), str(job.width), "--infer_steps", str(job.steps)]
    words += ["--guidance_scale", str(job.guidance_scale), "--seed", str(cell.seed)]
    words += ["--prompt", cell.prompt, "--negative_prompt", cell.negative_prompt]
    words += ["--save_path", str(folder)]
    if cell.strength:
        words += ["--lora_weight", str(job.lora), "--lora_multiplier", str(cell.strength)]
    if byt5 := job.further.get("byt5"):
        words += ["--byt5", byt5]
    sys.argv = words
    args = inference.parse_args()
    args.device = torch.device("cpu")
    return args


def anima(job: SampleJob, cell: Cell, folder: Path) -> None:
    import anima_minimal_inference as inference

    inference.torch = Float32()
    args = arguments(inference, job, cell, folder, job.further["qwen3"])
    tokens = inference.strategy_anima.AnimaTokenizeStrategy(qwen3_path=args.text_encoder)
    base = inference.strategy_base
    base.TokenizeStrategy._strategy = base.TextEncodingStrategy._strategy = None
    base.TokenizeStrategy.set_strategy(tokens)
    base.TextEncodingStrategy.set_strategy(inference.strategy_anima.AnimaTextEncodingStrategy())
    vae = inference.qwen_image_autoencoder_kl.load_vae(args.vae).float().eval()
    settings = inference.GenerationSettings(args.device, torch.float32)
    latents = inference.generate(args, settings)
    inference.save_output(args, vae, latents, args.device)


def hunyuan_image(job: SampleJob, cell: Cell, folder: Path) -> None:
    import hunyuan_image_minimal_inference as inference

    inference.torch = Float32()
    args = arguments(inference, job, cell, folder, job.further["text_encoder"])
    vae = inference.hunyuan_image_vae.load_vae(args.vae, "cpu").float().eval()
    settings = inference.GenerationSettings(args.device, torch.float32)
    latents = inference.generate(args, settings)
    inference.save_output(args, vae, latents, args.device)


DRAWN_BY = {"lumina2": lumina, "anima": anima, "hunyuan-image": hunyuan_image}


def draw(job: SampleJob, out: str) -> None:
    found: dict[str, torch.Tensor] = {}
    for index, cell in enumerate(job.cells):
        folder = Path(f"{out}.{index}")
        folder.mkdir()
        DRAWN_BY[job.family](job.of_cell(cell), cell, folder)
        (file,) = folder.glob("*.png")
        with Image.open(file) as image:
            found[str(index)] = torch.from_numpy(np.array(image)).float()
    save_file(found, out)


if __name__ == "__main__":
    what, real, job_file, out = sys.argv[1:]
    shrunken.use(real)
    job = SampleJob.from_json(Path(job_file).read_text(encoding="utf-8"))
    {"lora": write_lora, "draw": draw}[what](job, out)

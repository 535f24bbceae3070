"""Pictures of the shrunken Chroma by sd-scripts' own functions, in the trainer's Python.

`python draw_chroma.py REAL FOLDER LORA JOB.json OUT`: each cell of the job as the numbers 0 to 255
of its picture in `OUT`, the way of sd-scripts' `flux_minimal_inference.py`, with the LoRA merged.
"""

import sys
from pathlib import Path

import einops
import shrunken
import torch
from safetensors.torch import load_file, save_file

from tenner.sample.job import SampleJob


@torch.no_grad()
def main(real: str, folder: str, lora: str, job_file: str, out: str) -> None:
    shrunken.use(real)

    import flux_minimal_inference as inference
    from library import flux_utils, strategy_flux
    from networks import lora_flux

    job = SampleJob.from_json(Path(job_file).read_text(encoding="utf-8"))
    ae = flux_utils.load_ae(f"{folder}/ae.safetensors", torch.float32, "cpu").eval()
    tokenizers = strategy_flux.FluxTokenizeStrategy(512, job.tokenizers)
    encoding = strategy_flux.FluxTextEncodingStrategy(apply_t5_attn_mask=True)

    def encoded(t5: torch.nn.Module, prompt: str) -> tuple[torch.Tensor, ...]:
        tokens = tokenizers.tokenize(prompt)
        _, states, ids, mask = encoding.encode_tokens(tokenizers, [None, t5], tokens)
        return states, ids, mask

    found: dict[str, torch.Tensor] = {}
    for index, cell in enumerate(job.cells):
        t5 = flux_utils.load_t5xxl(f"{folder}/t5xxl_fp16.safetensors", torch.float32, "cpu").eval()
        _, model = flux_utils.load_flow_model(job.base, None, "cpu", model_type="chroma")
        model = model.float().eval()
        if cell.strength:
            weights = load_file(lora)
            network, _ = lora_flux.create_network_from_weights(
                cell.strength, None, ae, [None, t5], model, weights, for_inference=True
            )
            network.merge_to([None, t5], model, weights)
        generator = torch.Generator("cpu").manual_seed(cell.seed)
        noise = torch.randn(1, 16, job.height // 8, job.width // 8, generator=generator)
        tokens = einops.rearrange(noise, "b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=2, pw=2)
        rows, columns = job.height // 16, job.width // 16
        states, ids, mask = encoded(t5, cell.prompt)
        negative, _, negative_mask = encoded(t5, cell.negative_prompt)
        latents = inference.denoise(
            model,
            tokens,
            flux_utils.prepare_img_ids(1, rows, columns),
            states,
            ids,
            None,
            inference.get_schedule(job.steps, rows * columns, shift=True),
            guidance=0.0,
            t5_attn_mask=mask,
            neg_txt=negative,
            neg_t5_attn_mask=negative_mask,
            cfg_scale=job.guidance_scale,
        )
        maps = einops.rearrange(
            latents, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=rows, w=columns, ph=2, pw=2
        )
        picture = ae.decode(maps).clamp(-1, 1)[0].permute(1, 2, 0)
        found[str(index)] = (127.5 * (picture + 1)).contiguous()
    save_file(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What a machine with an NVIDIA card proves of the built-in trainer, and measures with it.

    python -m bench.gpu_day --out DIR [--sd-scripts DIR] [--wheels DIR] [--part N]
    python -m bench.gpu_day report DIR
    python -m bench.gpu_day wheels DIR [--python 3.11] [--cuda 121]

The machine needs Python and torch, and no network: packages that are missing are installed from
`--wheels`, which the last command fills where there is a network, and Stable Diffusion 1.5 and
SDXL are made there in full size with random weights. Each part ends within nine minutes; a row is
written to `DIR/rows.jsonl` as soon as it is measured, and rows that are there are not measured
again, so a cut costs one of them. With `--rehearse` all of it runs on a CPU with the tiny base in
place of the large ones.
"""

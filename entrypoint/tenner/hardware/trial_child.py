"""Run by the trainer's Python: tests whether its torch computes on the card, and its libraries.

It imports nothing of tenner, and prints each result at once as a JSON object in a line, since a
broken library may crash the process. Arguments: `torch`, or libraries to test.
"""
# pyright: basic, reportMissingImports=false

import json
import sys


def report(**found):
    print(json.dumps(found), flush=True)


def try_torch():
    """Versions, then one product of two small matrices in each precision the training may take."""
    import torch

    built = torch.version.cuda
    report(torch=torch.__version__, cuda=built, architectures=torch.cuda.get_arch_list())
    if not built:
        raise RuntimeError(f"torch {torch.__version__} was built without CUDA")
    torch.cuda.init()
    one = torch.ones(16, 16, device="cuda", dtype=torch.float16)
    total = float((one @ one).sum())
    torch.cuda.synchronize()
    if total != 16.0**3:
        raise RuntimeError(f"a product of two matrices gave {total}, not {16.0**3}")
    report(gpu=torch.cuda.get_device_name(0), num_gpus=torch.cuda.device_count())


def try_xformers():
    """Attention over a few tokens, on the card where torch has one."""
    import torch
    import xformers.ops

    if not torch.cuda.is_available():
        return
    tokens = torch.randn(1, 8, 1, 64, device="cuda", dtype=torch.float16)
    xformers.ops.memory_efficient_attention(tokens, tokens, tokens)
    torch.cuda.synchronize()


def try_bitsandbytes():
    """A step of the 8-bit optimizer, on the card where torch has one."""
    import bitsandbytes
    import torch

    if not torch.cuda.is_available():
        return
    weights = torch.nn.Parameter(torch.ones(64, 128, device="cuda"))
    weights.grad = torch.ones_like(weights)
    bitsandbytes.optim.AdamW8bit([weights], lr=0.1).step()  # pyright: ignore[reportPrivateImportUsage]
    torch.cuda.synchronize()
    if float(weights.detach().mean()) >= 1.0:
        raise RuntimeError("a step of AdamW8bit changed nothing")


TRIALS = {"torch": try_torch, "xformers": try_xformers, "bitsandbytes": try_bitsandbytes}


def main(names):
    for name in names:
        report(trying=name)
        try:
            TRIALS[name]()
        except BaseException as error:  # noqa: BLE001 any error of a library is a result
            lines = str(error).strip().splitlines() or [""]
            report(failed=name, error=f"{type(error).__name__}: {lines[0]}"[:300])
        else:
            report(works=name)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Runs in the trainer's own Python: makes an optimizer over a toy tensor, and steps it on a CPU.

Nothing of tenner is imported. The argument is JSON: the class's module and name, its arguments and
the rates of its parameter groups. One line of JSON is printed: the optimizer's error, or nothing.
"""
# pyright: basic, reportMissingImports=false

import ast
import importlib
import json
import sys


def main(text):
    order = json.loads(text)
    import torch

    toys = [torch.nn.Parameter(torch.ones(2, 2)) for _ in order["rates"]]
    for toy in toys:
        toy.grad = torch.ones_like(toy)
    kind = getattr(importlib.import_module(order["module"]), order["name"])
    groups = [{"params": [toy], "lr": rate} for toy, rate in zip(toys, order["rates"])]  # noqa: B905 Python 3.9
    arguments = {key: ast.literal_eval(value) for key, value in order["args"].items()}
    optimizer = kind(groups, lr=order["rates"][0], **arguments)
    if order["steps"]:
        if hasattr(optimizer, "train"):
            optimizer.train()
        optimizer.step()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BaseException as error:  # noqa: BLE001 whatever a library raises is the answer
        words = str(error).strip().splitlines() or [""]
        print(json.dumps({"kind": type(error).__name__, "text": words[0][:300]}), flush=True)
    else:
        print("{}", flush=True)

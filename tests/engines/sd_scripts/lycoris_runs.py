"""Runs of the whole program that train a network of LyCORIS, and go on from it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from tenner.base.tiny import concept_dir
from tenner.families import FAMILIES
from tenner.kohya.networks import LYCORIS, is_drawn
from tenner.lora_files import read_lora_file
from tests.engines.sd_scripts.test_sd_real import LIGHT, TENNER, events, train

FEW = ("--max_train_steps", "2", "--batch_size", "1", "--lr_warmup_steps", "0")
DRAWN = (
    *(each for each in LIGHT if each != "--no_samples"),
    *("--sample_steps", "1", "--sample_seeds", "1", "--sample_prompts", "x --w 64 --h 64"),
)
_COMPARED = {
    "loha": ".hada_w1_b",
    "lokr": ".lokr_w1",
    "dora": ".lora_down.weight",
    "lora": ".lora_down.weight",
    "ia3": ".weight",
}
"""Tensors with random numbers at the start of a training; those of (IA)³ start at zero."""


def assert_trained_and_continued(
    folder: Path,
    base: Path,
    family: str,
    kind: str,
    *arguments: str,
    again: Sequence[str] = (),
    program: Sequence[str] = TENNER,
) -> Path:
    """All modules are trained, and the file is recognised and, where it can be, drawn. A second run
    is told of the network but `again` nothing: all is read from the first one's file. It ends near
    it, which a network of other random numbers, or one that starts at zero, does not. Returns the
    second run's directory."""
    given = ("--base_model", base, "--dataset", concept_dir(), *FEW)
    network = ("--network_module", LYCORIS, "--network_args", *arguments)
    first, second = folder / "first", folder / "second"
    for each in (first, second):
        each.mkdir()
    run = train(first, *given, *DRAWN, *network, "--learning_rate", "1e-3", program=program)
    file = run / "delivered" / "my_lora.safetensors"
    lora = read_lora_file(file)
    assert lora.kinds[0] == kind
    assert lora.family == family
    drawn = is_drawn(LYCORIS, FAMILIES[lora.family])
    assert (run / "samples" / "grid.png").is_file() == drawn
    assert not [each for each in events(run, "warning") if "LoRA modules" in each["text"]]
    words = ("--engine", "sd-scripts", "--network_weights", file, *again)
    continued = train(second, *given, *LIGHT, *words, "--learning_rate", "1e-5", program=program)
    before, after = load_file(file), load_file(continued / "delivered" / file.name)
    assert before.keys() == after.keys()
    names = [name for name in before if name.endswith(_COMPARED[kind])]
    ends = [torch.cat([each[name].flatten().float() for name in names]) for each in (before, after)]
    assert (ends[1] - ends[0]).norm() < 0.1 * ends[0].norm()
    assert any(not value.equal(after[name]) for name, value in before.items())
    (measured,) = events(run, "weights")
    assert [part["num_unchanged"] for part in measured["parts"]] == [0] * len(measured["parts"])
    return continued

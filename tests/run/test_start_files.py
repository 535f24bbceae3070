"""Files that a run starts from are opened before it costs anything: a LoRA, a VAE, others."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program import Machine, StandIn
from safetensors.numpy import load_file, save_file

from tenner.base.inspection import inspect_base
from tenner.base.tiny import base_dir
from tenner.lora_files.base_modules import adaptable_modules

pytestmark = pytest.mark.timeout(900)

ENGINES = Path(__file__).parents[1] / "engines" / "native"


def tenner(machine: Machine, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tenner", *args],
        cwd=machine.folder,
        env=machine.environ,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def plan(machine: Machine, *args: str) -> tuple[int, str, dict[str, Any]]:
    """(exit code, what was reported, the plan)."""
    _, *rest = machine.train("lora", *args)
    done = tenner(machine, "plan", *rest, "--json")
    return done.returncode, done.stderr, json.loads(done.stdout) if done.stdout else {}


def lora_of(
    shapes: dict[str, tuple[int, ...]], rank: int, alpha: float, only: str = ""
) -> dict[str, np.ndarray]:
    """A LoRA of noise on every module whose name begins with `keep`."""
    draw = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for name, (out, inputs, *kernel) in shapes.items():
        if name.startswith(only):
            ones = [1] * len(kernel)
            down, up = (rank, inputs, *kernel), (out, rank, *ones)
            found[f"{name}.alpha"] = np.array(alpha, np.float32)
            found[f"{name}.lora_down.weight"] = draw.normal(size=down).astype(np.float32)
            found[f"{name}.lora_up.weight"] = draw.normal(size=up).astype(np.float32) / 100
    return found


@pytest.fixture(scope="module")
def tiny() -> dict[str, tuple[int, ...]]:
    return adaptable_modules(inspect_base(base_dir(), name="tiny"))


def full_size(name: str) -> dict[str, tuple[int, ...]]:
    """The modules that sd-scripts adapts in a full-size model: outputs, inputs, kernel."""
    lines = (ENGINES / name).read_text().splitlines()
    found: dict[str, tuple[int, ...]] = {}
    for line in lines:
        module, inputs, outputs, kind = line.split()
        found[module] = (int(outputs), int(inputs), *((1, 1) if kind != "linear" else ()))
    return found


def test_rank_and_alpha_are_the_files_and_the_training_starts_from_it(
    tmp_path: Path, tiny: dict[str, tuple[int, ...]]
) -> None:
    machine = Machine(tmp_path)
    save_file(lora_of(tiny, 6, 3.0), tmp_path / "before.safetensors")
    args = ("--network_weights", "before.safetensors")
    _, first, *rest = machine.train("lora", "--max_train_steps", "1", *args)
    at = rest.index("--network_dim")
    del rest[at : at + 2]
    done = tenner(machine, "train", first, *rest, "--learning_rate", "1e-9")
    assert done.returncode == 0, done.stderr
    assert "network_dim = 6, as network_weights has it" in done.stderr
    assert "network_alpha = 3, as network_weights has it" in done.stderr
    before = load_file(tmp_path / "before.safetensors")
    after = load_file(machine.run("lora") / "delivered" / "lora.safetensors")
    assert after.keys() == before.keys()
    for name, value in before.items():  # at a rate of nearly 0 it is still the same LoRA
        assert np.allclose(after[name].astype(np.float32), value, atol=2e-3), name


def test_a_rank_or_alpha_that_the_user_sets_is_compared_with_the_file(
    tmp_path: Path, tiny: dict[str, tuple[int, ...]]
) -> None:
    machine = Machine(tmp_path)
    save_file(lora_of(tiny, 4, 1.0), tmp_path / "before.safetensors")
    args = ("--network_weights", "before.safetensors")
    code, output, _ = plan(machine, *args, "--network_alpha", "16")
    assert (code, "network_alpha = 16" in output, "set network_alpha = 1" in output) == (
        2,
        True,
        True,
    )
    code, output, found = plan(machine, *args)  # SHORT sets network_dim = 4, as it is
    assert (code, found["options"]["network_alpha"]) == (0, 1.0), output


def half(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    modules = sorted({name.split(".")[0] for name in tensors})[::2]
    return {name: each for name, each in tensors.items() if name.split(".")[0] in modules}


def peft(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "base_model.model.unet.mid_block.attentions.0.proj_in.lora_A.weight": np.ones((4, 8), "f4"),
        "base_model.model.unet.mid_block.attentions.0.proj_in.lora_B.weight": np.ones((8, 4), "f4"),
    }


def test_what_does_not_fit_is_refused_by_plan_check_and_train_alike(
    tmp_path: Path, tiny: dict[str, tuple[int, ...]]
) -> None:
    machine = Machine(tmp_path)
    whole = lora_of(tiny, 4, 16.0)
    dropped = {name: each for name, each in whole.items() if not name.endswith("lora_up.weight")}
    cases: dict[str, tuple[dict[str, np.ndarray] | None, str]] = {
        "gone": (None, "there is no file"),
        "peft": (peft(whole), "PEFT's names of modules"),
        "xl": (lora_of(full_size("lora_modules_sdxl.txt"), 1, 1.0), "is a LoRA of Stable Diff"),
        "sd1": (lora_of(full_size("lora_modules_sd1.txt"), 4, 1.0), "do not fit tiny"),
        "cut": (dropped, "are incomplete"),
    }
    for name, (tensors, text) in cases.items():
        if tensors is not None:
            save_file(tensors, tmp_path / f"{name}.safetensors")
        args = ("--network_weights", f"{name}.safetensors")
        _, *rest = machine.train("lora", *args)
        for command in ("plan", "check") if name != "gone" else ("plan", "check", "train"):
            done = tenner(machine, command, *rest)
            assert (done.returncode, text in done.stderr) == (2, True), (name, command, done.stderr)
            assert "fix:" in done.stderr
    assert not (machine.run("lora") / "ledger.json").exists()


def test_missing_modules_are_listed(tmp_path: Path, tiny: dict[str, tuple[int, ...]]) -> None:
    machine = Machine(tmp_path)
    save_file(half(lora_of(tiny, 4, 16.0)), tmp_path / "half.safetensors")
    code, _, found = plan(machine, "--network_weights", "half.safetensors")
    text = " ".join(each["text"] for each in found["notices"])
    assert code == 0
    missing = len(tiny) // 2
    assert f"lacks {missing} of {len(tiny)} modules, which start at zero" in text
    args = ("--network_weights", "half.safetensors", "--network_train_unet_only", "true")
    _, _, found = plan(machine, *args)
    assert any("(text encoder) are not in the result" in each["text"] for each in found["notices"])


def full_base(path: Path) -> Path:
    """The heads of a single-file SD 1.5, with all of its attentions; it is sparse."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "lora_files"))
    from made import write_head

    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": [320, 4, 3, 3],
        "cond_stage_model.transformer.text_model.embeddings.position_ids": [1, 77],
        "model.diffusion_model.out.2.weight": [100_000_000],
    }
    for line in (Path(__file__).parent / "sd15_attentions.txt").read_text().splitlines():
        name, *shape = line.split()
        shapes[name] = [int(each) for each in shape]
    return write_head(path, shapes)


def test_sd_scripts_is_given_the_files_rank_and_alpha(tmp_path: Path) -> None:
    machine = StandIn(tmp_path)
    machine.base = full_base(tmp_path / "base.safetensors")
    modules = full_size("lora_modules_sd1.txt")
    save_file(lora_of(modules, 2, 1.0), tmp_path / "even.safetensors")
    uneven = lora_of(modules, 2, 1.0, "lora_unet_") | lora_of(modules, 3, 1.5, "lora_te_")
    save_file(uneven, tmp_path / "uneven.safetensors")
    args = ("--max_train_steps", "2", "--network_weights")
    assert machine.finish(*machine.train("even", *args, "even.safetensors"), timeout=400) == 0, (
        machine.output
    )
    reported = machine.commands("even")[0]
    assert (reported["network_dim"], reported["network_alpha"]) == ("2", "1.0")
    assert "dim_from_weights" not in reported
    assert (
        machine.finish(*machine.train("uneven", *args, "uneven.safetensors"), timeout=400) == 0
    ), machine.output
    assert machine.commands("uneven")[0]["dim_from_weights"] == "true"
    text = "are taken from the file (2, 3)"
    assert text in machine.output
    code, output, _ = plan(
        machine, *args, "uneven.safetensors", "--engine", "native", "--optimizer_type", "AdamW"
    )
    assert (code, "the built-in trainer has one for all" in output) == (2, True)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--vae", "nowhere"), "vae = nowhere: there is no such file"),
        (("--vae", "pages"), "vae = pages: it has no config.json"),
        (("--vae", "notes.safetensors"), "is no VAE"),
        (("--base_weights", "nowhere.safetensors"), "base_weights: there is no file"),
        (("--log_tracker_config", "nowhere.toml"), "log_tracker_config = nowhere.toml"),
        (("--sample_prompts", "nowhere.txt"), "sample_prompts = nowhere.txt: there is no such"),
        (("--reg_data_dir", "nowhere"), "nowhere"),
        (("--in_json", "nowhere.json"), "in_json"),
        (("--dataset_config", "nowhere.toml"), "dataset_config"),
    ],
)
def test_a_file_that_is_named_and_not_there_is_reported_by_plan(
    tmp_path: Path, args: tuple[str, ...], text: str
) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "pages").mkdir()
    save_file({"weight": np.ones(2, "f4")}, tmp_path / "notes.safetensors")
    code, output, _ = plan(machine, *args)
    assert code in (2, 3)
    assert text in output


@pytest.mark.parametrize(("base", "listed"), [("sd15", "lora_modules_sd1.txt"), ("tiny", "")])
def test_the_modules_of_a_base_are_those_that_trainers_adapt(
    tmp_path: Path, base: str, listed: str
) -> None:
    if listed:
        found = adaptable_modules(inspect_base(full_base(tmp_path / "b.safetensors"), name=base))
        assert found == full_size(listed)
    else:
        found = adaptable_modules(inspect_base(base_dir(), name="tiny"))
        assert sum(name.startswith("lora_te_") for name in found) % 6 == 0
        machine = Machine(tmp_path)
        assert machine.finish(*machine.train("lora", "--max_train_steps", "1"), timeout=400) == 0
        made = load_file(machine.run("lora") / "delivered" / "lora.safetensors")
        assert found.keys() == {name.split(".")[0] for name in made}


def test_rank_and_alpha_of_the_file_are_said_to_be_its_own(
    tmp_path: Path, tiny: dict[str, tuple[int, ...]]
) -> None:
    save_file(lora_of(tiny, 4, 1.0), tmp_path / "before.safetensors")
    code, output, found = plan(Machine(tmp_path), "--network_weights", "before.safetensors")
    assert code == 0, output
    (rank,) = (each for each in found["choices"] if each["name"] == "rank")
    assert (rank["value"], rank["reason"]) == ("4, alpha 1", "the network_weights' own")


def test_a_file_that_is_not_there_is_reported_once(tmp_path: Path) -> None:
    code, output, _ = plan(Machine(tmp_path), "--network_weights", "nowhere.safetensors")
    assert (code, output.count("nowhere.safetensors")) == (2, 1), output

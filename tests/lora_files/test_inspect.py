"""`tenner inspect`, started as users start it, on files of every maker, and on garbage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_torch

from tests.lora_files.made import kohya, write

ATTENTION = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DOTTED = ATTENTION.replace("down_blocks_0_attentions_0_", "down_blocks.0.attentions.0.").replace(
    "transformer_blocks_0_attn2_to_k", "transformer_blocks.0.attn2.to_k"
)


def inspect(*args: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tenner", "inspect", *map(str, args)],
        env={**os.environ, **extra},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_kohya_file_is_reported_whole(tmp_path: Path) -> None:
    tensors = kohya(f"lora_unet_{ATTENTION}", 320, 768, 8, 4.0)
    tensors |= kohya("lora_te_text_model_encoder_layers_0_mlp_fc1", 3072, 768, 8, 4.0)
    metadata = {
        "ss_sd_model_name": "anything.safetensors",
        "ss_steps": "1200",
        "ss_tag_frequency": json.dumps({"10_cat": {"sks cat": 30, "grass": 12}}),
        "ss_dataset_dirs": json.dumps({"10_cat": {"n_repeats": 10, "img_count": 30}}),
        "modelspec.title": "my cat",
    }
    path = write(tmp_path / "a.safetensors", tensors, metadata)
    done = inspect(path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    reported = json.loads(done.stdout)
    assert (reported["naming"], reported["kinds"], reported["family"]) == ("kohya", ["lora"], "sd1")
    assert (reported["ranks"], reported["alphas"]) == ([8], [4.0])
    assert reported["metadata"] == metadata
    assert reported["trained_on"]["base model"] == "anything.safetensors"
    assert reported["trained_on"]["folders"] == "10_cat (30 images × 10)"
    assert reported["trained_on"]["tags"] == "sks cat (30), grass (12)"
    assert reported["read_by"]["ComfyUI"] is True
    assert reported["problems"] == []
    down, up = (tensors[f"lora_unet_{ATTENTION}.lora_{side}.weight"] for side in ("down", "up"))
    norm = np.linalg.norm(0.5 * up.astype(np.float64) @ down)
    assert reported["parts"]["unet"]["norm"] == pytest.approx(norm, rel=1e-6)
    output = inspect(path).stdout
    for word in ("Stable Diffusion 1.x", "8, alpha 4", "my cat", "A1111", "Forge", "‖ΔW‖"):
        assert word in output


def test_of_other_makers_files_it_is_reported_who_reads_them(tmp_path: Path) -> None:
    peft = write(
        tmp_path / "adapter_model.safetensors",
        {
            f"base_model.model.{DOTTED}.lora_A.weight": np.ones((4, 768), np.float16),
            f"base_model.model.{DOTTED}.lora_B.weight": np.ones((320, 4), np.float16),
        },
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    reported = json.loads(inspect(tmp_path, "--json").stdout)
    assert (reported["path"], reported["naming"], reported["alphas"]) == (str(peft), "peft", [8.0])
    assert reported["read_by"]["PEFT"] is True
    assert reported["read_by"]["diffusers"] == "modules are named as PEFT does"
    loha = {
        f"lora_unet_{ATTENTION}.{name}": np.ones(shape, np.float16)
        for name, shape in {
            "hada_w1_a": (320, 4),
            "hada_w1_b": (4, 768),
            "hada_w2_a": (320, 4),
            "hada_w2_b": (4, 768),
        }.items()
    }
    reported = json.loads(inspect(write(tmp_path / "loha.safetensors", loha), "--json").stdout)
    assert reported["kinds"] == ["loha"]
    assert reported["read_by"]["ComfyUI"] is True
    assert reported["read_by"]["diffusers"] == "it has no LoHa"
    assert reported["parts"]["unet"]["norm"] == pytest.approx(16 * np.sqrt(320 * 768), rel=1e-4)


def test_a_bf16_file_is_measured_too(tmp_path: Path) -> None:
    path, name = tmp_path / "a.safetensors", f"lora_unet_{ATTENTION}"
    down, up = torch.full((2, 768), 0.5), torch.full((320, 2), 0.25)
    tensors = {f"{name}.lora_down.weight": down.bfloat16(), f"{name}.lora_up.weight": up.bfloat16()}
    save_torch(tensors, path)
    reported = json.loads(inspect(path, "--json").stdout)
    assert reported["parts"]["unet"]["norm"] == pytest.approx(0.25 * (320 * 768) ** 0.5, rel=1e-9)


def test_a_lora_that_learnt_nothing_ends_it_with_5_and_its_cause(
    tmp_path: Path,
) -> None:
    tensors = kohya(f"lora_unet_{ATTENTION}", 320, 768, 8, 4.0)
    tensors[f"lora_unet_{ATTENTION}.lora_up.weight"][:] = 0
    metadata = {"ss_optimizer": "prodigyopt.prodigy.Prodigy(decouple=True)", "ss_unet_lr": "1e-4"}
    done = inspect(write(tmp_path / "a.safetensors", tensors, metadata))
    assert done.returncode == 5
    assert "error: the LoRA learnt nothing" in done.stdout
    assert "with Prodigy the learning rate is a factor" in done.stdout


def test_numbers_that_are_not_finite_end_it_with_5(tmp_path: Path) -> None:
    tensors = kohya(f"lora_unet_{ATTENTION}", 320, 768, 8, 4.0)
    tensors[f"lora_unet_{ATTENTION}.lora_up.weight"][3, 3] = np.nan
    done = inspect(write(tmp_path / "a.safetensors", tensors))
    assert (done.returncode, "not finite" in done.stdout) == (5, True)


def test_a_base_of_another_family_is_reported_instead_of_a_ratio(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", kohya("lora_unet_mid_block_1_x", 64, 64, 4, 4.0))
    done = inspect(path, "--base", "tiny")
    assert "1 of 1 modules of the U-Net are not in tiny" in done.stdout
    assert inspect(path, "--base", "nowhere.safetensors").returncode == 2


def test_without_numpy_all_but_the_norms_is_reported(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "sitecustomize.py"
    hidden.parent.mkdir()
    hidden.write_text(
        "import sys\nclass Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('numpy', 'torch', 'safetensors'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'numpy' else find(name, *more)\n"
    )
    path = write(tmp_path / "a.safetensors", kohya(f"lora_unet_{ATTENTION}", 320, 768, 8, 4.0))
    done = inspect(path, "--json", PYTHONPATH=str(hidden.parent), TENNER_TRAINER_PYTHON="")
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert (reported["ranks"], reported["family"]) == ([8], "sd1")
    assert "norm" not in reported["parts"]["unet"]
    assert "numpy is not installed here" in reported["problems"][0]["text"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!doctype html><html></html>", "a web page"),
        (b"PK\x03\x04 and so on", "a pickle"),
        (b'\x10\0\0\0\0\0\0\0{"a": 1}', ""),
        (b"\xff" * 64, ""),
        (os.urandom(1000), ""),
    ],
    ids=["empty", "web page", "pickle", "cut", "ones", "random"],
)
def test_garbage_is_called_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    done = inspect(path)
    assert done.returncode == 2
    assert message in done.stderr + done.stdout
    assert inspect(tmp_path / "none.safetensors").returncode == 2

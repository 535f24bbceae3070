"""The LoRA file of a run: loaded by diffusers to the same result, with its metadata."""

import json
from pathlib import Path

import pytest
import tiny_model
import torch
from running import train
from safetensors import safe_open
from safetensors.torch import load_file

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    "changes", [{}, {"conv_dim": 3, "conv_alpha": 4.5}, {"conv_dim": 2}], ids=str
)
def test_diffusers_loads_the_file_to_the_same_effect(
    base, items, tmp_path: Path, changes: dict[str, object]
) -> None:
    """Convolutions too, scaled by their own alpha over their own rank; 1 where none is set."""
    from diffusers import StableDiffusionPipeline

    from tenner.engines.native.load import load_base
    from tenner.engines.native.lora_file import read_lora
    from tenner.engines.native.network import build_network

    job = tiny_model.make_job(base, tmp_path, items, learning_rate=5e-2, **changes)
    train(job)
    tensors = load_file(tmp_path / "lora.safetensors")
    for name, down in tensors.items():
        if name.endswith("lora_down.weight"):
            is_wide = down.shape[2:] == (3, 3)
            dim, alpha = (
                (changes["conv_dim"], changes.get("conv_alpha", 1.0)) if is_wide else (4, 2)
            )
            found = tensors[name.replace("lora_down.weight", "alpha")]
            assert (down.shape[0], float(found)) == (dim, alpha)
    assert ("conv_dim" in changes) == any(value.shape[2:] == (3, 3) for value in tensors.values())
    network = build_network(job, load_base(job), torch.device("cpu"))
    read_lora(tmp_path / "lora.safetensors", network.bank)
    pipe = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    torch.manual_seed(0)
    latents, times = torch.randn(2, 4, 8, 8), torch.tensor([10, 700])
    with torch.no_grad():
        ours = network.texts.encode(["sks star", "a photo"]).context
        ids = pipe.tokenizer(
            ["sks star", "a photo"], padding="max_length", max_length=77, return_tensors="pt"
        ).input_ids
        theirs = pipe.text_encoder(ids)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        found = network.unet(latents, times, ours)
        expected = pipe.unet(latents, times, theirs).sample
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        pipe.unload_lora_weights()
        assert float((pipe.unet(latents, times, theirs).sample - found).abs().max()) > 1e-2


def test_the_files_metadata_are_complete_and_have_no_path(base, items, tmp_path: Path) -> None:
    job = tiny_model.make_job(base, tmp_path, items, max_train_steps=2, training_comment="a try")
    train(job)
    path = tmp_path / "lora.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_training_comment"] == "a try"
    assert json.loads(metadata["ss_tag_frequency"])["2_sks"]["sks star"] == 6
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    content = path.read_bytes()
    import hashlib

    start_of_tensors = 8 + int.from_bytes(content[:8], "little")
    digest = hashlib.sha256(content[start_of_tensors:]).hexdigest()
    assert metadata["sshs_model_hash"] == digest
    assert str(tmp_path.parent) not in json.dumps(metadata)

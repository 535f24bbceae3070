"""The models that draft captions: fetched, verified, and run as transformers runs them.

What is tested is everything around the weights; the Hub is on loopback.
"""

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.hub_server import hub_server

from tenner.cli.main import main
from tenner.core.errors import MachineError, SettingsError
from tenner.dataset.captioning import models
from tenner.pipeline.captioning import draft_captions
from tenner.pipeline.drafting import CaptionRequest
from tests.dataset.caption_models import (
    BLUE,
    GREEN,
    RED,
    blip,
    caption,
    description_of,
    noisy_pictures,
    pictures,
    qwen,
)


def test_the_pinned_model_is_fetched_once_and_held_to_its_hash(tmp_path, hub, monkeypatch):
    seen: list[str] = []
    cache = tmp_path / "cache"
    folder = models.find_model("wd14", None, cache, os.environ, lambda *_: seen.append("bytes"))
    assert sorted(path.name for path in folder.iterdir() if path.suffix in (".onnx", ".csv")) == [
        "model.onnx", "selected_tags.csv",
    ]  # fmt: skip
    assert seen
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert models.find_model("wd14", None, cache, os.environ) == folder
    pictures(tmp_path / "photos", red=RED)
    assert main(["caption", str(tmp_path / "photos")]) == 0
    assert (tmp_path / "photos" / "red.txt").read_text() == "red sky, ^_^\n"


def test_a_model_in_the_hub_s_own_cache_is_not_fetched_again(tmp_path, hub):
    pinned, home = models.PINNED["wd14"], tmp_path / "hf-home"
    for file in pinned.files:
        where = {"revision": pinned.revision, "endpoint": hub.url, "cache_dir": home / "hub"}
        hf_hub_download(pinned.id, file.name, **where)
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(home)}
    folder = models.find_model("wd14", None, tmp_path / "new", env)
    assert {file.name for file in pinned.files} <= {path.name for path in folder.iterdir()}


def test_a_model_of_another_hash_is_not_used(tmp_path, hub, monkeypatch):
    small = models.PINNED["wd14"]
    wrong = replace(small.files[0], sha256="0" * 64)
    monkeypatch.setattr(models, "PINNED", {"wd14": replace(small, files=(wrong,))})
    with pytest.raises(SettingsError, match="not the pinned"):
        models.find_model("wd14", None, tmp_path / "cache", os.environ)
    assert not list((tmp_path / "cache").rglob("model.onnx"))


def test_without_the_network_the_way_out_is_named(tmp_path, monkeypatch):
    """Within the half minute that the Hub's library tries by itself."""
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(SettingsError) as refused:
        models.find_model("blip", None, tmp_path, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "name it: --model FOLDER" in refused.value.problems[0].fix
    assert sum(waits) < 45


def test_blip_writes_what_transformers_writes_with_its_own_preparation(tmp_path):
    import torch
    from transformers import BlipImageProcessor

    folder = pictures(tmp_path / "photos", red=RED, green=GREEN, blue=BLUE)
    model, tokenizer = blip(tmp_path / "blip")
    prepare = BlipImageProcessor(size={"height": 32, "width": 32})
    expected = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as image, torch.inference_mode():
            pixels = prepare(image.convert("RGB"), return_tensors="pt")["pixel_values"]
            found = model.generate(pixel_values=pixels, max_new_tokens=40, num_beams=3)
        text = tokenizer.decode(found[0].tolist(), skip_special_tokens=True)
        expected[path.stem] = f"sks, {text}"
    assert len(set(expected.values())) == 3
    assert caption(folder, tmp_path / "blip", "--with", "blip", "--trigger", "sks") == 0
    assert {path.stem: path.read_text().strip() for path in folder.glob("*.txt")} == expected


def test_qwen_writes_what_transformers_writes_with_its_own_preparation(tmp_path):
    folder = noisy_pictures(tmp_path / "photos", wide=(150, 70), small=(30, 45), large=(900, 800))
    model, tokenizer = qwen(tmp_path / "qwen")
    expected = {
        path.stem: f"sks, {description_of(path, model, tokenizer, 'Describe the hat')}"
        for path in folder.glob("*.png")
    }
    assert len(set(expected.values())) == 3
    words = ("--prompt", "Describe the hat", "--trigger", "sks")
    assert caption(folder, tmp_path / "qwen", *words) == 0  # the kind by the model's own files
    assert {path.stem: path.read_text().strip() for path in folder.glob("*.txt")} == expected


@pytest.mark.long
def test_a_base_of_photos_gets_sentences_by_the_pinned_model_without_words_to_leave_out(
    tmp_path, monkeypatch, capsys
):
    small, _ = tmp_path / "qwen", qwen(tmp_path / "qwen", shards="60KB")
    folder = noisy_pictures(tmp_path / "photos", one=(64, 64))
    pinned = models.PINNED["qwen"]
    with hub_server() as hub:
        content = {path.name: path.read_bytes() for path in small.iterdir()}
        commit = hub.state.add_files(hub.state.make_repo("model", pinned.id), content)
        files = tuple(
            models.ModelFile(name=n, num_bytes=len(d), sha256=hashlib.sha256(d).hexdigest())
            for n, d in content.items()
        )
        assert sum(name.endswith(".safetensors") for name in content) > 1
        here = replace(pinned, revision=commit.sha, files=files)
        monkeypatch.setattr(models, "PINNED", {**models.PINNED, "qwen": here})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("TENNER_CACHE_DIR", str(tmp_path / "cache"))
        words = ("caption", str(folder), "--base_model", "sdxl", "--device", "cpu")
        assert main([*words]) == 0
        assert "1 caption drafted by Qwen2-VL on cpu" in capsys.readouterr().out
        first = (folder / "one.txt").read_text().split()
        most = max(set(first), key=first.count)
        assert main([*words, "--leave_out", most.upper()]) == 0
    assert most not in (folder / "one.txt").read_text().split()


@pytest.mark.long
def test_a_qwen_whose_weights_are_not_whole_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    qwen(tmp_path / "qwen")
    path = tmp_path / "qwen" / "model.safetensors"
    weights = load_file(path)
    del weights["visual.patch_embed.proj.weight"]
    save_file(weights, path)
    folder = pictures(tmp_path / "photos", red=RED)
    request = CaptionRequest(folder=folder, model=tmp_path / "qwen", kind="qwen", device="cpu")
    with pytest.raises(MachineError, match="the weights lack"):
        draft_captions(request, os.environ)
    assert list(folder.iterdir()) == [folder / "red.png"]

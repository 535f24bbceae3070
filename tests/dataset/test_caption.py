"""Drafts of captions: by small models of the real ones' interface, through the program's door.

The pinned models are hundreds of megabytes and come from the Hub; what is held here is everything
around them: a tagger in ONNX that knows three colours, a BLIP and a Qwen2-VL of two layers with
seeded weights, and a Hub on loopback for the fetching.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from huggingface_hub import hf_hub_download
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "delivery"))

from servers.hub_server import Hub, hub_server

from tenner.cli.main import main
from tenner.core.errors import SettingsError
from tenner.dataset.captioning import models
from tenner.dataset.captioning.choice import without_words
from tenner.dataset.captioning.drafts import Drafts, pack_drafts, unpack_drafts
from tenner.pipeline.captioning import choose_kind, draft_captions
from tenner.pipeline.drafting import CaptionRequest
from tenner.pipeline.run_captions import kind_for
from tenner.settings import Settings

TAGS = ["rating_safe", "red_sky", "green_sky", "blue_sky", "^_^", "some_one"]
CATEGORIES = [9, 0, 0, 0, 0, 4]
RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def tagger(folder: Path) -> Path:
    """An ONNX graph as WD14's: the mean of blue, green and red decides each tag."""
    folder.mkdir(parents=True)
    weights = np.zeros((3, 6), np.float32)
    weights[2, 1] = weights[1, 2] = weights[0, 3] = 0.04  # blue stands first
    weights[2, 4], weights[1, 5] = 0.03, 0.06
    bias = np.array([50, -4, -4, -4, -4, -9], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
            helper.make_node("Sigmoid", ["logits"], ["tags"]),
        ],
        "tagger",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 32, 32, 3])],
        [helper.make_tensor_value_info("tags", TensorProto.FLOAT, ["n", 6])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    rows = [
        f"{n},{tag},{kind},9" for n, (tag, kind) in enumerate(zip(TAGS, CATEGORIES, strict=True))
    ]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]))
    return folder


def pictures(folder: Path, **colors: tuple[int, int, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, color in colors.items():
        Image.new("RGB", (64, 64), color).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tagger(tmp_path / "model")


def caption(folder: Path, model: Path, *words: str) -> int:
    return main(["caption", str(folder), "--model", str(model), "--device", "cpu", *words])


def test_tags_are_drafted_with_the_trigger_first_and_the_set_then_checks(tmp_path, model, capsys):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN, blue=BLUE)
    Image.new("RGBA", (96, 32), (0, 0, 0, 0)).save(folder / "clear.png")
    (folder / "broken.png").write_bytes(b"x")
    assert caption(folder, model) == 0
    output = capsys.readouterr().out
    assert "4 captions drafted by the WD14 tagger on cpu" in output
    assert "left out: broken.png: no image format" in output
    texts = {path.stem: path.read_text() for path in folder.glob("*.txt")}
    assert texts == {
        "red": "sks toy, red sky, ^_^\n",
        "green": "sks toy, some one, green sky\n",
        "blue": "sks toy, blue sky\n",
        # white behind what is transparent: every colour is there
        "clear": "sks toy, some one, red sky, green sky, blue sky, ^_^\n",
    }


def test_what_a_human_wrote_or_edited_stays_and_a_second_start_drafts_the_rest(
    tmp_path, model, capsys
):
    folder = pictures(tmp_path / "photos", red=RED, green=GREEN, blue=BLUE)
    (folder / "red.txt").write_text("mine")
    (folder / "blue.caption").write_text("mine too")
    assert caption(folder, model) == 0
    assert (folder / "green.txt").read_text() == "some one, green sky\n"
    assert not (folder / "blue.txt").exists()
    (folder / "green.txt").write_text("edited")
    pictures(folder, more=RED)
    assert caption(folder, model) == 0
    assert "2 captions not ours" not in capsys.readouterr().out.splitlines()[-1]
    assert (folder / "red.txt").read_text() == "mine"
    assert (folder / "green.txt").read_text() == "edited"
    assert (folder / "more.txt").read_text() == "red sky, ^_^\n"
    before = (folder / "more.txt").stat().st_mtime_ns
    aside = model.rename(tmp_path / "aside")
    assert caption(folder, model) == 0  # nothing is missing: no model is loaded
    aside.rename(model)
    assert (folder / "more.txt").stat().st_mtime_ns == before
    assert caption(folder, model, "--overwrite", "--trigger", "sks") == 0
    assert (folder / "red.txt").read_text() == "sks, red sky, ^_^\n"


def test_our_own_drafts_are_made_anew_when_something_else_is_asked(tmp_path, model, capsys):
    folder = pictures(tmp_path / "photos", red=RED, green=GREEN)
    caption(folder, model)
    (folder / "green.txt").write_text("edited")
    assert caption(folder, model, "--leave_out", "^_^", "--trigger", "sks") == 0
    assert (folder / "red.txt").read_text() == "sks, red sky\n"
    assert (folder / "green.txt").read_text() == "edited"
    assert caption(folder, model, "--threshold", "0.99", "--trigger", "sks") == 0
    assert (folder / "red.txt").read_text() == "sks, red sky\n"
    assert caption(folder, model, "--threshold", "0.999") == 3
    assert "no tag is likely enough" in capsys.readouterr().out
    assert (folder / "red.txt").read_text() == "sks, red sky\n"


def test_a_read_only_folder_gets_its_captions_elsewhere(tmp_path, model):
    folder = pictures(tmp_path / "set", red=RED)
    pictures(folder / "10_x", green=GREEN)
    Image.new("RGB", (64, 64), BLUE).save(folder / "red.jpg")
    assert caption(folder, model, "--output", str(tmp_path / "captions")) == 0
    found = {
        path.relative_to(tmp_path / "captions").as_posix(): path.read_text()
        for path in (tmp_path / "captions").rglob("*.txt")
    }
    assert found == {
        "red.png.txt": "red sky, ^_^\n", "red.jpg.txt": "blue sky\n",
        "10_x/green.txt": "x, some one, green sky\n",
    }  # fmt: skip
    assert {path.suffix for path in folder.rglob("*.*")} == {".png", ".jpg"}


def test_a_killed_start_is_resumed(tmp_path, model):
    folder = pictures(tmp_path / "many", **{f"p{n}": RED for n in range(4)})
    request = CaptionRequest(folder=folder, model=model, device="cpu")

    class Killed(Exception):
        pass

    def kill(what: str, done: int, total: int | None) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        draft_captions(request, os.environ, kill)
    note = folder / ".tenner-captions.jsonl"
    note.write_text(note.read_text() + '{"name": "cut')
    result = draft_captions(request, os.environ)
    assert (len(result.drafted), result.drafted_before, result.humans) == (2, 2, ())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("selected_tags.csv", "names 6 tags, selected_tags.csv 5"),
        ("model.onnx", "cannot be loaded"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path, model, spoil, message
):
    from tenner.core.errors import MachineError

    folder = pictures(tmp_path / "photos", red=RED)
    lines = (model / spoil).read_bytes().splitlines(keepends=True)
    (model / spoil).write_bytes(b"".join(lines[:-1]) or b"x")
    with pytest.raises(MachineError, match=message):
        draft_captions(CaptionRequest(folder=folder, model=model, device="cpu"), os.environ)
    assert list(folder.iterdir()) == [folder / "red.png"]
    with pytest.raises(SettingsError, match="lacks config"):
        draft_captions(CaptionRequest(folder=folder, model=model, kind="blip"), os.environ)


@pytest.fixture
def hub(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that holds the small tagger where the pinned one is."""
    with hub_server() as hub:
        pinned = models.PINNED["wd14"]
        repo = hub.state.make_repo("model", pinned.id)
        content = {path.name: path.read_bytes() for path in model.iterdir()}
        commit = hub.state.add_files(repo, content)
        files = tuple(
            models.ModelFile(
                name=name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
            )
            for name, data in content.items()
        )
        small = replace(pinned, revision=commit.sha, files=files)
        monkeypatch.setattr(models, "PINNED", {**models.PINNED, "wd14": small})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("TENNER_CACHE_DIR", str(tmp_path / "cache"))
        yield hub


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


def blip(folder: Path):
    """A BLIP of two layers with seeded weights, and its words, as files in `folder`."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers import models as words_models
    from transformers import BlipConfig, BlipForConditionalGeneration

    folder.mkdir()
    words = ["[PAD]", "[CLS]", "[SEP]", "[BOS]", *(f"word{number}" for number in range(60))]
    known = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(words_models.WordLevel(known, "[PAD]"))
    tokenizer.add_special_tokens(words[:4])
    tokenizer.save(str(folder / "tokenizer.json"))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "projection_dim": 16}  # fmt: skip
    text = {"vocab_size": 64, "encoder_hidden_size": 32, "max_position_embeddings": 64,
            "pad_token_id": 0, "sep_token_id": 2, "eos_token_id": 2, "bos_token_id": 3}  # fmt: skip
    vision = {"image_size": 32, "patch_size": 8}
    config = BlipConfig(text_config=small | text, vision_config=small | vision,
                        image_text_hidden_size=16, projection_dim=16)  # fmt: skip
    model = BlipForConditionalGeneration(config).eval()
    drawn = torch.Generator().manual_seed(0)
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data.normal_(0, 0.5, generator=drawn)
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    preparation = {
        "size": {"height": 32, "width": 32}, "resample": 3, "rescale_factor": 1 / 255,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model, tokenizer


def test_blip_says_what_transformers_says_of_its_own_preparation(tmp_path):
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


WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
         "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]  # fmt: skip


def qwen(folder: Path, *, shards: str = "5GB"):
    """A Qwen2-VL of two layers with seeded weights, in the form of the published files: a flat
    config.json, and the tensors' first names."""
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as words_models
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    folder.mkdir()
    plain = ["[UNK]", "Describe", "the", "hat", "red", "a", *(f"word{n}" for n in range(50))]
    words = [*WORDS, *plain]
    known = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(words_models.WordLevel(known, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(WORDS)
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {
        "model_type": "qwen2_vl", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 512, "vocab_size": len(words), "tie_word_embeddings": True,
        "bos_token_id": 0, "eos_token_id": 2, "image_token_id": 6, "video_token_id": 7,
        "vision_start_token_id": 3, "vision_end_token_id": 4, "vision_token_id": 5,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "rope_theta": 1000000.0,
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "in_chans": 3,
                          "mlp_ratio": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2,
                          "spatial_patch_size": 14, "temporal_patch_size": 2},
    }  # fmt: skip
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig.from_dict(json.loads(json.dumps(content)))
    )
    drawn = torch.Generator().manual_seed(0)
    for weights in model.eval().parameters():
        if weights.dim() > 1:
            weights.data.normal_(0, 0.4, generator=drawn)
    model.save_pretrained(folder, max_shard_size=shards)
    for path in folder.glob("*.safetensors"):
        save_file({first_name(name): each for name, each in load_file(path).items()}, path)
    if (index := folder / "model.safetensors.index.json").is_file():
        found = json.loads(index.read_text())
        found["weight_map"] = {first_name(k): v for k, v in found["weight_map"].items()}
        index.write_text(json.dumps(found))
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.01}')
    (folder / "preprocessor_config.json").write_text(json.dumps(QWEN_PREPARATION))
    return model, tokenizer


QWEN_PREPARATION = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


def first_name(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def description_of(path: Path, model, tokenizer, prompt: str) -> str:
    """What the model writes of a picture that transformers itself has prepared."""
    import torch
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    prepare = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 602112})
    with Image.open(path) as image:
        seen = prepare(image.convert("RGB"), return_tensors="pt")
    visual = "<|image_pad|>" * (int(seen["image_grid_thw"].prod()) // 4)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|>{visual}<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.inference_mode():
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=seen["pixel_values"],
            image_grid_thw=seen["image_grid_thw"], mm_token_type_ids=(ids == 6).int(),
            max_new_tokens=96, do_sample=False, eos_token_id=[2, 0], pad_token_id=0,
        )  # fmt: skip
    return tokenizer.decode(found[0, ids.shape[1] :].tolist(), skip_special_tokens=True)


def noisy_pictures(folder: Path, **sizes: tuple[int, int]) -> Path:
    folder.mkdir()
    drawn = np.random.default_rng(0)
    for name, (width, height) in sizes.items():
        values = drawn.integers(0, 255, (height // 7, width // 7, 3), np.uint8)
        Image.fromarray(values).resize((width, height)).save(folder / f"{name}.png")
    return folder


def test_qwen_says_what_transformers_says_of_its_own_preparation(tmp_path):
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

    from tenner.core.errors import MachineError

    qwen(tmp_path / "qwen")
    path = tmp_path / "qwen" / "model.safetensors"
    kept = load_file(path)
    del kept["visual.patch_embed.proj.weight"]
    save_file(kept, path)
    folder = pictures(tmp_path / "photos", red=RED)
    request = CaptionRequest(folder=folder, model=tmp_path / "qwen", kind="qwen", device="cpu")
    with pytest.raises(MachineError, match="the weights lack"):
        draft_captions(request, os.environ)
    assert list(folder.iterdir()) == [folder / "red.png"]


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("illustrious", "wd14"), ("hf://Laxhar/noobai-XL-1.1", "wd14"), ("sdxl", "qwen"),
        ("/models/ponyDiffusionV6XL.safetensors", "wd14"), ("sd15", "qwen"), ("", "wd14"),
        ("/models/waiNSFWIllustrious_v140.safetensors", "wd14"), ("/models/wai-v14.ckpt", "wd14"),
        ("/home/manga/all/juggernautXL_v9.safetensors", "qwen"), ("flux-dev", "qwen"),
        ("hf://SG161222/RealVisXL_V5.0", "qwen"), ("C:\\sd\\animagine-xl-4.0.safetensors", "wd14"),
    ],
)  # fmt: skip
def test_the_base_decides_between_tags_and_sentences(base, kind):
    assert choose_kind("auto", base, None) == kind
    assert choose_kind("blip", base, None) == "blip"


@pytest.mark.parametrize(
    ("text", "words", "left"),
    [
        ("A woman, smiling, in a red hat.", ("smiling",), "A woman, in a red hat."),
        ("A woman with Blonde Hair, on a chair.", ("with blonde hair",), "A woman, on a chair."),
        ("A hatter with a hat", ("hat",), "A hatter with a"),
        ("blue", ("blue",), ""),
        ("C++ (1)", ("(1)",), "C++"),
    ],
)
def test_words_are_left_out_of_sentences_with_what_they_leave_behind(text, words, left):
    assert without_words(text, words) == left


def test_a_tagger_takes_no_prompt(tmp_path, model):
    folder = pictures(tmp_path / "photos", red=RED)
    with pytest.raises(SettingsError, match="takes none"):
        draft_captions(CaptionRequest(folder=folder, model=model, prompt="x"), os.environ)


def job(tmp_path: Path, folder: Path, *more: str) -> tuple[str, ...]:
    run = ("--output_dir", str(tmp_path / "out"), "--output_name", "run", "--device", "cpu")
    return (str(folder), "--base_model", "tiny", *run, "--caption", "tags", *more)


def output_of(capsys, *words: str) -> str:
    """What a command prints, in one line; it has to end well."""
    assert main([*words]) == 0
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


@pytest.mark.long
def test_train_drafts_what_is_missing_beside_the_run_and_leaves_the_users_files(
    tmp_path, hub, capsys, monkeypatch
):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN, blue=BLUE)
    (folder / "blue.txt").write_text("a sks toy, mine")
    before = sorted(path.name for path in folder.iterdir())
    to = ("--destinations", f"file://{tmp_path}/kept")
    words = job(tmp_path, folder, "--max_train_steps", "1", "--no_samples", *to)
    output = output_of(capsys, "train", *words)
    assert "2 captions to draft by the WD14 tagger" in output
    assert "2 captions drafted on cpu: read them over" in output
    assert sorted(path.name for path in folder.iterdir()) == before
    run = tmp_path / "out" / "run"
    trained = json.loads((run / "dataset.json").read_text())
    expected = {"red.png": "sks toy, red sky, ^_^", "green.png": "sks toy, some one, green sky"}
    assert {each["source"]: each["caption"] for each in trained["images"]} == {
        **expected, "blue.png": "a sks toy, mine",
    }  # fmt: skip
    drafts = run / "captions" / "train"
    assert {path.name: path.read_text().strip() for path in drafts.glob("*.txt")} == {
        f"{name}.txt": text for name, text in expected.items()
    }

    # On another machine, without the model and without what this one has drafted: the same run.
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setenv("TENNER_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    output = output_of(capsys, "train", *words)
    assert "2 captions drafted on an earlier machine" in output
    assert "to draft" not in output
    assert "delivered before" in output


def test_runs_over_the_same_pictures_train_on_the_same_drafts_made_once(
    tmp_path, hub, capsys, monkeypatch
):
    one = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN)
    assert prepared_captions(tmp_path, one)["red.png"] == "sks toy, red sky, ^_^"
    shutil.rmtree(tmp_path / "out")
    pictures(tmp_path / "10_my car", other=GREEN, red=RED)
    monkeypatch.setattr("tenner.pipeline.drafting.CaptionProcess", None)  # it is not started
    assert prepared_captions(tmp_path, tmp_path / "10_my car") == {
        "other.png": "my car, some one, green sky", "red.png": "my car, red sky, ^_^",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../a.txt", "/a.txt", "train/a.png"])
def test_drafts_come_back_whole_and_nowhere_else(tmp_path, name):
    drafts = Drafts(tmp_path / "captions" / "train", {"kind": "wd14"})
    drafts.write("10_cat/قطة.png.txt", "a cat")
    packed = pack_drafts(tmp_path / "captions")
    wrong = json.dumps({"file": name, "text": "x"}) + "\n{cut"
    there = tmp_path / "there" / "captions"
    assert unpack_drafts(packed + wrong.encode(), there) == 1
    again = Drafts(there / "train", {"kind": "wd14"})
    assert again.state("10_cat/قطة.png.txt") == "drafted"
    assert pack_drafts(there) == packed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions", "there"]


def test_a_draft_that_the_user_edited_is_kept_and_a_file_beside_the_image_is_stronger(
    tmp_path, hub, capsys, monkeypatch
):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN, blue=BLUE)
    assert prepared_captions(tmp_path, folder) == {
        "red.png": "sks toy, red sky, ^_^", "green.png": "sks toy, some one, green sky",
        "blue.png": "sks toy, blue sky",
    }  # fmt: skip
    drafts = tmp_path / "out" / "run" / "captions" / "train"
    (drafts / "red.png.txt").write_text("sks toy, edited")
    (folder / "green.txt").write_text("sks toy, mine")
    pictures(folder, more=RED)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert prepared_captions(tmp_path, folder) == {
        "red.png": "sks toy, edited", "green.png": "sks toy, mine",
        "blue.png": "sks toy, blue sky", "more.png": "sks toy, red sky, ^_^",
    }  # fmt: skip
    words = job(tmp_path, folder)
    assert "3 captions drafted by a model" in output_of(capsys, "check", *words)


def prepared_captions(tmp_path: Path, folder: Path) -> dict[str, str]:
    """The captions that a run would be trained with, once everything before it is done."""
    from tenner.library.requests import request_of
    from tenner.pipeline.preflight import prepare

    settings = {"dataset": str(folder), "base_model": "tiny", "device": "cpu", "caption": "tags",
                "output_dir": str(tmp_path / "out"), "output_name": "run"}  # fmt: skip
    request = request_of(settings, os.environ, preset=None)
    prepared = prepare(request, os.environ, tmp_path / "out" / "run" / "dataset")
    return {image.source: image.caption for image in prepared.dataset.images}


def test_plan_and_check_say_what_train_will_draft_and_write_nothing(tmp_path, capsys):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN)
    (folder / "red.txt").write_text("a sks toy")
    for command in ("check", "plan"):
        output = output_of(capsys, command, *job(tmp_path, folder))
        assert "captions: 1 of 2 images; train drafts the others by the WD14 tagger" in output
    assert "draft them now by `tenner caption`" in output_of(
        capsys, "check", *job(tmp_path, folder)
    )
    assert not (tmp_path / "out").exists()
    never = output_of(capsys, "check", str(folder), "--base_model", "tiny")
    assert "draft them by `tenner caption`" in never


def test_plan_counts_the_time_of_drafts_that_are_missing(tmp_path, capsys):
    folder = pictures(tmp_path / "10_sks toy", red=RED, green=GREEN, blue=BLUE)

    def hours(caption: str) -> float:
        words = ("--gpu", "RTX 4090", "--json", "--caption", caption)
        assert main(["plan", str(folder), "--base_model", "sd15", *words]) == 0
        offers = json.loads(capsys.readouterr().out)["offers"]
        return max(each["hours"] for each in offers if each["provider"] != "guide")

    # Three pictures at 2 s on a card, and 20 s for the model to load.
    assert hours("sentences") - hours("never") == pytest.approx(26 / 3600, abs=0.002)
    (folder / "blue.txt").write_text("a toy")
    assert hours("sentences") - hours("never") == pytest.approx(24 / 3600, abs=0.002)


def test_plan_refuses_what_train_could_not_draft(tmp_path, monkeypatch, capsys):
    folder = pictures(tmp_path / "10_sks toy", red=RED)
    monkeypatch.setattr("tenner.pipeline.drafting.missing_modules", lambda *_: ["onnxruntime"])
    for command in ("plan", "train"):
        assert main([command, *job(tmp_path, folder)]) == 4
        output = " ".join(capsys.readouterr().err.split())
        assert "drafting captions with wd14 needs onnxruntime" in output
    (folder / "red.txt").write_text("a sks toy")
    assert main(["plan", *job(tmp_path, folder)]) == 0


@pytest.mark.parametrize(
    ("caption", "base", "kind"),
    [
        ("never", "illustrious", None), ("auto", "illustrious", "wd14"), ("auto", "sdxl", "qwen"),
        ("tags", "sdxl", "wd14"), ("sentences", "illustrious", "qwen"),
    ],
)  # fmt: skip
def test_the_setting_picks_as_the_command_does(caption, base, kind):
    assert kind_for(Settings(caption=caption, base_model=base)) == kind

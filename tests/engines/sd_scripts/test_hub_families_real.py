"""Families whose tokenizers sd-scripts looks up on the Hub, through the whole program and the real
trainer on a CPU: smaller sizes, and a Hub on loopback that has the tokenizers.

Opt-in as `test_sd_real.py`. Qwen's vocabulary is the one that sd-scripts brings, byT5's tokenizer
has no vocabulary, and Gemma's is a small one with its special tokens.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parents[2] / "delivery"))

from servers.hub_server import Hub, hub_server

from tenner.base.tiny import concept_dir
from tenner.families import FAMILIES
from tenner.lora_files import read_lora_file
from tests.engines.sd_scripts import shrunken
from tests.engines.sd_scripts.test_families_real import FEW
from tests.engines.sd_scripts.test_sd_real import LIGHT, events

pytestmark = [
    pytest.mark.sd_scripts,
    pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set"),
    pytest.mark.timeout(2400),
]
PROGRAM = """
import json, sys
from dataclasses import replace
from tenner.families import FAMILIES
family, commits, sha256 = json.loads(sys.argv.pop(1))
tokenizers = [
    replace(each, revision=commits[each.hub_id], files={
        name: sha256[each.hub_id][name] if known else "" for name, known in each.files.items()
    })
    for each in FAMILIES[family].hub_tokenizers
]
FAMILIES[family] = replace(FAMILIES[family], hub_tokenizers=tuple(tokenizers))
from tenner.cli.main import main
sys.exit(main())
"""
"""`tenner` with the loopback Hub's commits and SHA-256 in place of the real ones."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    python, real = os.environ["TENNER_TRAINER_PYTHON"], os.environ["SD_SCRIPTS_DIR"]
    words = (python, shrunken.__file__, real, str(folder), "lumina2", "hunyuan-image")
    subprocess.run(words, check=True)
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub


def gemma(folder: Path) -> None:
    """A small tokenizer with the special tokens of Gemma's, in its two files."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        ["sks star a picture of an image"], trainers.BpeTrainer(special_tokens=special)
    )
    made.save(str(folder / "tokenizer.json"))
    names = {f"{name.strip('<>')}_token": name for name in special}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GemmaTokenizer", **names}), encoding="utf-8"
    )


def qwen(folder: Path) -> None:
    own = Path(os.environ["SD_SCRIPTS_DIR"]) / "configs" / "qwen3_06b"
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(own / name, folder)


def byt5(folder: Path) -> None:
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    own = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(own), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    (folder / "config.json").write_text(
        '{"model_type": "t5", "tokenizer_class": "ByT5Tokenizer"}', encoding="utf-8"
    )


TOKENIZERS = {
    "google/gemma-2-2b": gemma,
    "Qwen/Qwen2.5-VL-7B-Instruct": qwen,
    "google/byt5-small": byt5,
}


def published(hub: Hub, family: str, folder: Path) -> str:
    """Put the family's tokenizers on the Hub, and give what `PROGRAM` is told of them."""
    commits: dict[str, str] = {}
    sha256: dict[str, dict[str, str]] = {}
    for each in FAMILIES[family].hub_tokenizers:
        own = folder / each.hub_id
        own.mkdir(parents=True)
        TOKENIZERS[each.hub_id](own)
        files = {name: (own / name).read_bytes() for name in each.files}
        commits[each.hub_id] = hub.state.add_files(
            hub.state.make_repo("model", each.hub_id), files
        ).sha
        sha256[each.hub_id] = {
            name: hashlib.sha256(content).hexdigest() for name, content in files.items()
        }
    return json.dumps([family, commits, sha256])


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("lumina_2_model_bf16.safetensors", "lumina2"),
        ("hunyuanimage2.1.safetensors", "hunyuan-image"),
    ],
)
def test_it_trains_with_tokenizers_that_were_fetched_before(
    bases: Path, hub: Hub, tmp_path: Path, base: str, family: str
) -> None:
    told = published(hub, family, tmp_path / "hub")
    small = shrunken.sd_scripts(tmp_path / "sd-scripts", Path(os.environ["SD_SCRIPTS_DIR"]))
    environ = {
        **os.environ,
        "SD_SCRIPTS_DIR": str(small),
        "HF_ENDPOINT": hub.url,
        "TENNER_CACHE_DIR": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "home"),
    }
    words = ("train", "--base_model", bases / base, "--dataset", concept_dir(), *LIGHT, *FEW)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, told, *map(str, words)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    run = tmp_path / "output" / "my_lora"
    log = run / "engine.log"
    reported = log.read_text(errors="replace")[-4000:] if log.is_file() else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{reported}"
    assert [each["step"] for each in events(run, "step")] == [1, 2]
    lora = read_lora_file(run / "delivered" / "my_lora.safetensors")
    assert lora.family == family
    (measured,) = events(run, "weights")
    assert [part["num_unchanged"] for part in measured["parts"]] == [0]

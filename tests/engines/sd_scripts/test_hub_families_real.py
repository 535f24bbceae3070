"""Families whose tokenizers sd-scripts looks up on the Hub, through the whole program and the real
trainer on a CPU: smaller sizes, and a Hub on loopback that has the tokenizers.

Opt-in as `test_sd_real.py`. Qwen's vocabulary is the one that sd-scripts brings, byT5's tokenizer
has no vocabulary, and Gemma's is a small one with its special tokens.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parents[2] / "delivery"))

from servers.hub_server import Hub, hub_server

from tenner.base.tiny import concept_dir
from tenner.families import FAMILIES
from tenner.lora_files import read_lora_file
from tests.engines.sd_scripts import shrunken
from tests.engines.sd_scripts.lycoris_runs import DRAWN, FEW, assert_trained_and_continued
from tests.engines.sd_scripts.resuming import assert_resumed_as_if_never_cut
from tests.engines.sd_scripts.test_sd_real import events, train

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


@pytest.fixture
def program(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Sequence[str]]:
    """Gives, of a family, `tenner` that finds its tokenizers on the loopback Hub, and smaller
    sizes."""
    real = Path(os.environ["SD_SCRIPTS_DIR"])
    small = shrunken.sd_scripts(tmp_path / "sd-scripts", real)
    monkeypatch.setenv("SD_SCRIPTS_DIR", str(small))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("TENNER_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return lambda family: ("-c", PROGRAM, published(hub, family, tmp_path / "hub"))


BASES = (
    ("lumina_2_model_bf16.safetensors", "lumina2"),
    ("hunyuanimage2.1.safetensors", "hunyuan-image"),
)


@pytest.mark.parametrize(("base", "family"), BASES)
def test_it_trains_with_tokenizers_that_were_fetched_before(
    bases: Path,
    tmp_path: Path,
    program: Callable[[str], Sequence[str]],
    base: str,
    family: str,
) -> None:
    words = ("--base_model", bases / base, "--dataset", concept_dir(), *DRAWN, *FEW)
    run = train(tmp_path, *words, program=program(family))
    assert [each["step"] for each in events(run, "step")] == [1, 2]
    lora = read_lora_file(run / "delivered" / "my_lora.safetensors")
    assert lora.family == family
    assert (run / "samples" / "grid.png").is_file()
    assert not [each for each in events(run, "warning") if "LoRA modules" in each["text"]]
    (measured,) = events(run, "weights")
    assert [part["num_unchanged"] for part in measured["parts"]] == [0]


@pytest.mark.parametrize(
    ("base", "family", "sent"),
    [(*each, sent) for each, sent in zip(BASES, (signal.SIGKILL, signal.SIGTERM), strict=True)],
)
def test_cut_off_and_resumed_it_is_the_run_that_never_was(
    bases: Path,
    tmp_path: Path,
    program: Callable[[str], Sequence[str]],
    base: str,
    family: str,
    sent: signal.Signals,
) -> None:
    assert_resumed_as_if_never_cut(tmp_path, bases / base, sent, program=program(family))


def test_a_kind_of_lycoris(
    bases: Path, tmp_path: Path, program: Callable[[str], Sequence[str]]
) -> None:
    base, family = BASES[1]
    words = ("algo=lokr", "factor=4")
    told = program(family)
    assert_trained_and_continued(tmp_path, bases / base, family, "lokr", *words, program=told)

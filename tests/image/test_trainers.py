"""The image trains: its demo, and sd-scripts with the guide's settings, with no network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenner.core.safetensors_head import read_safetensors_header
from tenner.families import FAMILIES
from tests.guide import GUIDE
from tests.image.conftest import Engine


@pytest.fixture(scope="module")
def random_base(engine: Engine) -> Iterator[str]:
    """A volume that holds SD 1.5 with random weights, made in the image itself."""
    volume = engine.client.volumes.create()
    maker = Path(__file__).with_name("make_random_base.py")
    done = engine.run(
        *("python", "/make.py", "/models/sd15"),
        environment={"PYTHONPATH": "/opt/tenner-app", "PUID": "0"},
        volumes={volume.name: {"bind": "/models"}, str(maker): {"bind": "/make.py", "mode": "ro"}},
    )
    assert done.code == 0, done.output
    yield volume.name
    volume.remove(force=True)


def test_the_demo_learns(engine: Engine, folder: Path) -> None:
    folder.chmod(0o777)
    volumes = {str(folder): {"bind": "/workspace/output"}}
    done = engine.run("demo", "--output_dir", "output", volumes=volumes)
    assert done.code == 0, done.output
    assert "with the LoRA, prompted for the concept" in done.output
    assert (folder / "striped_star" / "report.html").stat().st_size > 100_000


def test_the_guides_settings_train_in_sd_scripts(
    engine: Engine, folder: Path, concept: Path, random_base: str
) -> None:
    """Its file as it is; what a CPU cannot do in a test's time is set by the environment."""
    folder.chmod(0o777)
    (folder / "training_config.toml").write_text(GUIDE)
    container = engine.start(
        volumes={
            str(folder): {"bind": "/workspace"},
            str(concept): {"bind": "/workspace/training_data/10_sks star", "mode": "ro"},
            random_base: {"bind": "/opt/models", "mode": "ro"},
        },
        environment={
            "TENNER_DEVICE": "cpu",
            "TENNER_RESOLUTION": "64",
            "TENNER_MIN_BUCKET_RESO": "64",
            "TENNER_BATCH_SIZE": "1",
            "TENNER_NETWORK_DIM": "4",
            "TENNER_OPTIMIZER_TYPE": "AdamW",
            "TENNER_MAX_TRAIN_STEPS": "6",
            "TENNER_LR_WARMUP_STEPS": "0",
            "TENNER_NO_SAMPLES": "true",
        },
    )
    try:
        engine.wait_for(container, " step 1/6")
        processes = " ".join(map(str, container.top()["Processes"]))
        assert "train_network.py" in processes
        assert "compile_worker" not in processes, "torch_compile is off"
        done = engine.finish(container)
    finally:
        container.remove(force=True)
    assert done.code == 0, done.output
    assert "the baked sd15" in done.output
    lora = folder / "output" / "my_lora" / "delivered" / "my_lora.safetensors"
    head = read_safetensors_header(lora)
    assert any(key.startswith("lora_unet_") for key in head)
    assert head["__metadata__"]["ss_sd_scripts_commit_hash"]


def test_the_trainer_has_the_files_and_tokenizers_of_each_family(engine: Engine) -> None:
    """Read by sd-scripts' own functions, without a network."""
    files = sorted({name for facts in FAMILIES.values() for name in facts.from_trainer})
    code = (
        "import os, sys; folder = os.environ['SD_SCRIPTS_DIR']; sys.path.insert(0, folder);"
        "print('missing', [n for n in sys.argv[1:] if not os.path.isfile(f'{folder}/{n}')]);"
        "from library import anima_utils as u;"
        "print('qwen3', len(u.load_qwen3_tokenizer('a.safetensors')('a star')['input_ids']));"
        "print('t5', len(u.load_t5_tokenizer()('a star')['input_ids']))"
    )
    done = engine.run("python", "-c", code, *files)
    assert done.code == 0, done.output
    assert "missing []" in done.output
    assert "qwen3 2" in done.output
    assert "t5 4" in done.output

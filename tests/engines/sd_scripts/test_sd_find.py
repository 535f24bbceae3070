"""Whether sd-scripts is there: told in words, without importing torch."""

import os
import sys
import time
from pathlib import Path

import pytest

from tenner.core.errors import MachineError, Problem
from tenner.engines.choice import choose_engine
from tenner.engines.sd_scripts.find import MODULES, SCRIPTS, Trainer, find, try_import
from tenner.families import FAMILIES
from tenner.kohya.options import pinned_commit
from tenner.settings.model import Settings


@pytest.fixture
def sd_scripts(tmp_path: Path) -> Path:
    """A folder that looks like sd-scripts, with stand-ins of its modules beside the scripts."""
    folder = tmp_path / "sd-scripts"
    folder.mkdir()
    for name in SCRIPTS:
        (folder / name).write_text("import torch\n")
    return folder


def python_that_finds(tmp_path: Path, modules: tuple[str, ...]) -> Path:
    """A Python in which exactly these modules are found; each would stop whoever imports it."""
    site = tmp_path / "site"
    site.mkdir()
    for name in modules:
        (site / f"{name}.py").write_text("raise SystemExit('imported')\n")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" -S "$@"\n')
    program.chmod(0o755)
    return program


def test_it_is_found_without_importing_anything(sd_scripts: Path, tmp_path: Path) -> None:
    python = python_that_finds(tmp_path, MODULES)
    started = time.monotonic()
    found = find({"SD_SCRIPTS_DIR": str(sd_scripts), "TENNER_TRAINER_PYTHON": str(python)})
    assert found == Trainer(directory=sd_scripts, python=python)
    assert found.notices == ()
    assert time.monotonic() - started < 5


def why_not(**environ: str) -> str:
    found = find(environ)
    assert isinstance(found, Problem)
    assert found.fix
    assert found.level == "note"
    return found.text


def test_why_it_is_not_there_is_reported(sd_scripts: Path, tmp_path: Path) -> None:
    folder = str(sd_scripts)
    assert why_not() == "SD_SCRIPTS_DIR is not set"
    assert "holds no train_network.py" in why_not(SD_SCRIPTS_DIR=str(tmp_path))
    missing = str(tmp_path / "none" / "python")
    assert "is no program" in why_not(SD_SCRIPTS_DIR=folder, TENNER_TRAINER_PYTHON=missing)
    no_python = tmp_path / "no_python"
    no_python.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    no_python.chmod(0o755)
    reported = why_not(SD_SCRIPTS_DIR=folder, TENNER_TRAINER_PYTHON=str(no_python))
    assert reported.endswith("does not work: broken")
    some = python_that_finds(tmp_path, ("torch", "diffusers"))
    reported = why_not(SD_SCRIPTS_DIR=folder, TENNER_TRAINER_PYTHON=str(some))
    assert "lacks torchvision, accelerate, transformers, safetensors, cv2, " in reported


def test_another_commit_is_reported(sd_scripts: Path, tmp_path: Path) -> None:
    git = sd_scripts / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    environ = {
        "SD_SCRIPTS_DIR": str(sd_scripts),
        "TENNER_TRAINER_PYTHON": str(python_that_finds(tmp_path, MODULES)),
    }
    for commit, notices in ((pinned_commit(), 0), ("f" * 40, 1)):
        (git / "refs" / "heads" / "main").write_text(f"{commit}\n")
        found = find(environ)
        assert isinstance(found, Trainer)
        assert found.commit == commit
        assert len(found.notices) == notices


def test_what_breaks_on_import_is_reported(sd_scripts: Path, tmp_path: Path) -> None:
    (sd_scripts / "train_network.py").write_text("import no_such_module\n")
    trainer = Trainer(directory=sd_scripts, python=Path(sys.executable))
    problem = try_import(trainer)
    assert problem is not None
    assert "No module named 'no_such_module'" in problem.text
    for name in SCRIPTS:
        (sd_scripts / name).write_text("x = 1\n")
    assert try_import(trainer) is None


@pytest.mark.sd_scripts
@pytest.mark.skipif("SD_SCRIPTS_DIR" not in os.environ, reason="SD_SCRIPTS_DIR is not set")
def test_the_real_one_is_found_at_the_known_commit() -> None:
    found = find(os.environ)
    assert isinstance(found, Trainer), found
    assert found.notices == ()
    assert try_import(found) is None


def test_what_a_family_needs_of_it_is_demanded(sd_scripts: Path, tmp_path: Path) -> None:
    """T5's tokenizer lies among its files, and so does Qwen3's."""
    python = python_that_finds(tmp_path, MODULES)
    environ = {"SD_SCRIPTS_DIR": str(sd_scripts), "TENNER_TRAINER_PYTHON": str(python)}
    assert choose_engine(Settings(), environ, family="sd1").name == "sd-scripts"
    (sd_scripts / "anima_train_network.py").write_text("import torch\n")
    with pytest.raises(MachineError, match="which Anima needs"):
        choose_engine(Settings(), environ, family="anima")
    for name in FAMILIES["anima"].trainer_files:
        (sd_scripts / name).parent.mkdir(parents=True, exist_ok=True)
        (sd_scripts / name).write_text("{}")
    assert choose_engine(Settings(), environ, family="anima").name == "sd-scripts"


def test_the_image_leaves_out_nothing_that_a_family_needs() -> None:
    """Its checkout takes all but some folders."""
    patterns = Path(__file__).parents[3] / "docker" / "sd-scripts.patterns"
    first, *others = patterns.read_text().split()
    assert first == "/*"
    left_out = [each.removeprefix("!/") for each in others if each != "!/.*/"]
    assert all(each.endswith("/") for each in left_out)
    for facts in FAMILIES.values():
        assert not [each for each in facts.from_trainer if each.startswith(tuple(left_out))]

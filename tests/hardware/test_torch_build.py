"""The CUDA of the trainer that is there decides which cards can be used."""

from pathlib import Path

import pytest

from tenner.hardware import inspect_machine
from tenner.hardware.torch_build import trainer_build
from tests.hardware.fake_smi import card, install_smi

RTX_5090 = card("NVIDIA GeForce RTX 5090", 32607, "570.124.06", "12.0")


def environment(folder: Path, version: str, cuda: str) -> Path:
    """An environment with a torch of that build; returns its Python."""
    torch = folder / "lib" / "python3.11" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    lines = [f"__version__ = '{version}'", f"cuda: Optional[str] = {cuda}", "hip = None"]
    (torch / "version.py").write_text("\n".join(lines))
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    ("version", "cuda", "expected"),
    [
        ("2.4.1+cu121", "'12.1'", (12, 1)),
        ("2.8.0+cu128", "'12.8'", (12, 8)),
        ("2.13.0+cpu", "None", (12, 1)),
        ("9.9.0", "'99.0'", (12, 1)),
    ],
)
def test_the_build_is_read_from_its_files(
    tmp_path: Path, version: str, cuda: str, expected: tuple[int, int]
) -> None:
    assert trainer_build(environment(tmp_path, version, cuda)).version == expected


def test_without_torch_it_is_the_images(tmp_path: Path) -> None:
    assert trainer_build(tmp_path / "bin" / "python").version == (12, 1)


def test_a_card_of_the_newest_generation_is_used_by_the_image_that_has_code_for_it(
    tmp_path: Path,
) -> None:
    env = install_smi(tmp_path, [RTX_5090])
    new = trainer_build(environment(tmp_path / "new", "2.8.0+cu128", "'12.8'"))
    inspect_machine(env, cuda=new).require_gpu()
    old = trainer_build(environment(tmp_path / "old", "2.4.1+cu121", "'12.1'"))
    assert any("cu128" in each.fix for each in inspect_machine(env, cuda=old).problems)

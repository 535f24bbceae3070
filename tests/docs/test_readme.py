"""The README says what the program does, and nothing else."""

from pathlib import Path

from scripts.readme_settings import with_tables
from tenner.settings.model import SECTIONS
from tenner.settings.texts import setting_texts

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_settings_tables_are_those_of_the_model() -> None:
    readme = README.read_text(encoding="utf-8")
    assert with_tables(readme) == readme, "run: python -m scripts.readme_settings"


def test_every_setting_says_what_it_does() -> None:
    keys = [key for section in SECTIONS for key in section.model_fields]
    assert [key for key in keys if not setting_texts().get(key)] == []


def test_the_pictures_of_the_readme_exist() -> None:
    readme = README.read_text(encoding="utf-8")
    pictures = [part.split(")")[0] for part in readme.split("](")[1:] if ".png)" in part[:200]]
    assert pictures
    assert [each for each in pictures if not (README.parent / each).is_file()] == []

"""README and docs say what the program does, and what they point to is there."""

import re
from pathlib import Path

import pytest

from scripts.settings_tables import SETTINGS, with_tables
from tenner.core.errors import ExitCode
from tenner.settings.model import SECTIONS
from tenner.settings.texts import setting_texts

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_settings_tables_are_those_of_the_model() -> None:
    page = SETTINGS.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run: python -m scripts.settings_tables"


def test_every_setting_says_what_it_does() -> None:
    keys = [key for section in SECTIONS for key in section.model_fields]
    assert [key for key in keys if not setting_texts().get(key)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [each for each in targets if "://" not in each]
    assert [each for each in local if not (page.parent / each).exists()] == []


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"docs/([a-z]+\.md)", README.read_text(encoding="utf-8")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - linked == set()


def test_the_readme_is_short_and_has_every_exit_code() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert table == {int(code) for code in ExitCode}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_command_that_is_named_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"\b((?:entrypoint|tests|bench|scripts|configs|docker)/[\w./-]+\w)", text)
    modules = re.findall(r"python -m ((?:bench|scripts)\.[\w.]+\w)", text)
    places = [ROOT / path for path in paths]
    for module in modules:
        folder = ROOT.joinpath(*module.split("."))
        places.append(folder if folder.is_dir() else folder.with_suffix(".py"))
    assert [str(each) for each in places if not each.exists()] == []

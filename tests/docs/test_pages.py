"""README and docs say what the program does, and what they point to is there."""

import re
import tomllib
from pathlib import Path

import pytest

from scripts.man_page import PAGE as MAN_PAGE
from scripts.settings_tables import SETTINGS, with_tables
from tenner.cli.command_line import COMMANDS
from tenner.core.errors import ExitCode
from tenner.settings.model import SECTIONS
from tenner.settings.texts import setting_texts

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_settings_tables_are_those_of_the_model() -> None:
    page = SETTINGS.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run: python -m scripts.settings_tables"


def test_the_manual_page_has_every_command_and_every_flag() -> None:
    """Not the same text to the letter: versions of Python lay out usage differently."""
    page = MAN_PAGE.read_text(encoding="utf-8").replace("\\", "")
    assert not [each for each in COMMANDS if f"tenner {each}" not in page], UPDATE
    keys = {key for section in SECTIONS for key in section.model_fields}
    flags = {f"--{key}" for key in keys}
    flags |= {"--dry-run", "--json", "--quiet", "--gpu", "--restart"}
    assert not [each for each in flags if each not in page], UPDATE
    texts = " ".join(page.split())
    missing = [
        key
        for key, text in setting_texts().items()
        if key in keys and " ".join(text.replace("`", "").split())[:60] not in texts
    ]
    assert not missing, UPDATE


UPDATE = "run: python -m scripts.man_page"


def test_every_setting_has_a_description() -> None:
    keys = [key for section in SECTIONS for key in section.model_fields]
    assert [key for key in keys if not setting_texts().get(key)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [each for each in targets if "://" not in each]
    assert [each for each in local if not (page.parent / each).exists()] == []


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"docs/([a-z-]+\.md)", README.read_text(encoding="utf-8")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - linked == set()


def test_every_benchmark_is_in_the_table() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Benchmarks")[2]
    listed = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    runnable = {
        path.stem for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text()
    }
    runnable |= {path.parent.name for path in (ROOT / "bench").glob("*/__main__.py")}
    assert listed == runnable


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
    positions = [ROOT / path for path in paths]
    for module in modules:
        folder = ROOT.joinpath(*module.split("."))
        positions.append(folder if folder.is_dir() else folder.with_suffix(".py"))
    assert [str(each) for each in positions if not each.exists()] == []


def test_what_hosts_cost_follows_from_their_prices() -> None:
    """Of the README's times on these cards, at the price book's dollars for an hour."""
    page = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
    book = tomllib.loads(
        (ROOT / "entrypoint/tenner/hardware/cards/prices.toml").read_text(encoding="utf-8")
    )
    readme = README.read_text(encoding="utf-8")
    minutes = {
        name: [int(each) for each in re.findall(r"(\d+) min", line)]
        for name, line in re.findall(r"^\| (SD 1\.5|SDXL) at (.*)$", readme, re.MULTILINE)
    }
    rows = {
        "RunPod (community, secure)": (("RunPod community", "RunPod secure"), "RTX 4090", 1),
        "Vast.ai": (("Vast.ai",), "RTX 4090", 1),
        "GPUFlow": (("GPUFlow",), "RTX 4090", 1),
        "Lambda, by SkyPilot (A100 40 GB)": (("Lambda",), "A100 40GB", 2),
    }
    for host, (providers, card, column) in rows.items():
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {host} |"))
        cells = [cell.strip() for cell in row.split("|")[2:4]]
        for cell, base in zip(cells, ("SD 1.5", "SDXL"), strict=True):
            reported = [float(each) for each in re.findall(r"\d+\.\d\d", cell)]
            expected = [book[each][card] * minutes[base][column] / 60 for each in providers]
            assert reported == pytest.approx(expected, abs=0.011), (host, base)

"""Write the manual page `tenner.1` from the command line itself.

    python -m scripts.man_page

It is installed with the package, so that `man tenner` finds it beside the program.
"""

from pathlib import Path

from argparse_manpage.manpage import Manpage

from tenner.cli.command_line import make_parser

PAGE = Path(__file__).resolve().parents[1] / "entrypoint" / "tenner" / "cli" / "tenner.1"
_SUMMARY = "train a Stable Diffusion LoRA on a rented GPU and never lose a run"


def man_page() -> str:
    """The page in roff. Its date is left out: it is the same text until the program changes."""
    data = {"project_name": "tenner", "description": _SUMMARY, "manual_section": "1"}
    parser = make_parser(explained=True)
    parser.man_short_description = _SUMMARY  # type: ignore[attr-defined]
    lines = str(Manpage(parser, _data=data, format="pretty")).splitlines()
    return "\n".join(_undated(line).rstrip() for line in lines) + "\n"


def _undated(line: str) -> str:
    return '.TH TENNER 1 "" "tenner" "User Commands"' if line.startswith(".TH ") else line


if __name__ == "__main__":
    PAGE.write_text(man_page(), encoding="utf-8")

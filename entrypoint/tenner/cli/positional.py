"""What the first word of a job's command line is: a settings file, or a dataset of any kind."""

import os
from pathlib import Path

from tenner.core.errors import SettingsError
from tenner.core.messages import Message, msg
from tenner.core.suggest import nearest_name
from tenner.dataset.archive import ARCHIVE_SUFFIXES, is_archive
from tenner.rules.run import windows_path

SETTINGS_SUFFIXES = (".toml", ".json")


def is_dataset(word: str) -> bool:
    """Whether `word` names a dataset: an address, a folder, an archive; else a settings file.

    Raises SettingsError where it names nothing that is here, with the name most like it.
    """
    path = Path(word).expanduser()
    if "://" in word or windows_path(word) or os.path.isdir(path):  # noqa: PTH112 it never raises
        return True
    if os.path.isfile(path):  # noqa: PTH113
        return path.suffix.lower() not in SETTINGS_SUFFIXES and is_archive(path)
    if path.suffix.lower() in SETTINGS_SUFFIXES:
        return False  # a settings file that is missing is reported where settings are read
    what = (
        msg("no archive") if word.lower().endswith(ARCHIVE_SUFFIXES) else msg("no folder or file")
    )
    raise SettingsError(msg("there is {what} {word} here", what=what, word=word), fix=_fix(path))


def _fix(path: Path) -> Message:
    try:
        here = sorted(each.name for each in path.parent.iterdir() if each.name[:1] != ".")
    except OSError:
        return msg(
            "name a dataset or a settings file; {parent} cannot be looked into", parent=path.parent
        )
    if suggestion := nearest_name(path.name, here, least=60):
        return msg("did you mean {with_name}?", with_name=path.with_name(suggestion))
    return msg(
        "name a folder of images, an archive, an address (s3://, https://, hf://) or a TOML file"
    )

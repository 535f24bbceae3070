"""What the words of a job's command line are: a base, a settings file, a dataset of any kind."""

import os
from collections.abc import Sequence
from pathlib import Path

from tenner.core.errors import SettingsError
from tenner.core.messages import Message, msg
from tenner.core.suggest import nearest_name
from tenner.dataset.archive import ARCHIVE_SUFFIXES, is_archive
from tenner.rules.run import windows_path
from tenner.settings.known_bases import KNOWN_BASES, known_base

SETTINGS_SUFFIXES = (".toml", ".json")
_BASE_SUFFIXES = (".safetensors", ".ckpt")


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
    if known_base(word):
        raise SettingsError(
            msg("{word} is a base model; what to train on is not given", word=word),
            fix=msg("name the dataset too: {word} photos/", word=word),
        )
    raise SettingsError(msg("there is {what} {word} here", what=what, word=word), fix=_fix(path))


def base_and_dataset(words: Sequence[str], *, command: str) -> tuple[str, str]:
    """The base among two `words`, in either order, and the dataset or settings file beside it.

    A folder that is here is a dataset even where a base is called like it. Raises SettingsError
    where it is not clear which is which.
    """
    bases = [word for word in words if _is_base(word)]
    if len(bases) > 1:
        bases = [word for word in bases if not os.path.isdir(word)]  # noqa: PTH112 it never raises
    if len(words) == 2 and len(bases) == 1:
        return bases[0], words[1 - words.index(bases[0])]
    raise SettingsError(
        msg(
            "expected one dataset or settings file and at most one base, but got: {words}",
            words=", ".join(words),
        ),
        fix=_base_fix(words, command=command),
    )


def _is_base(word: str) -> bool:
    return known_base(word) is not None or word.lower().endswith(_BASE_SUFFIXES)


def _base_fix(words: Sequence[str], *, command: str) -> Message:
    names = [base.name for base in KNOWN_BASES]
    missing = [word for word in words if not os.path.exists(word)]  # noqa: PTH110 it never raises
    for word in missing:
        if (suggestion := nearest_name(word, names, least=60)) not in (None, word):
            return msg("did you mean the base {suggestion}?", suggestion=suggestion)
    return msg(
        "write tenner {command} photos/ --base_model BASE; bases with a name: {names}",
        command=command,
        names=", ".join(names),
    )


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

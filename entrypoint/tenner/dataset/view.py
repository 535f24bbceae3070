"""Which images belong to which concept, how often each is seen: the folder convention, read.

kohya's tools read `training_data/10_cat/…` as ten repeats of the concept "cat" and pass over
everything else in silence; a trainer that finds nothing then ends with exit code 0. Here the same
convention is read, plain folders too, obvious typos are corrected and reported, and what could mean
two things is an error that names the folder. Pure: from a list of files to a `View`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tenner.core.messages import Message, msg, plural
from tenner.dataset.findings import FileIssue, Finding, names, printable
from tenner.dataset.folder_name import FolderName, read_folder_name
from tenner.dataset.listing import FileEntry
from tenner.dataset.request import DEFAULT_REPEATS
from tenner.settings.subsets import MOST_REPEATS

MANY_REPEATS = 200
"""Above this the number is more likely a year or a count than a wish."""

EXAMPLE = msg("put images and captions like this: training_data/10_my_cat/photo1.jpg + photo1.txt")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """Images that share a folder, its repeats and the words that stand in for a caption."""

    folder: str
    name: str
    num_repeats: int
    class_tokens: str
    is_reg: bool
    images: tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """The dataset as it will be trained, before any image was opened."""

    concepts: tuple[Concept, ...] = ()
    findings: tuple[Finding, ...] = ()
    left_out: tuple[FileIssue, ...] = ()
    corrected: tuple[FileIssue, ...] = ()


@dataclass
class _Reading:
    """What is being found out about one tree."""

    by_folder: Mapping[str, Sequence[FileEntry]]
    root_name: str
    num_repeats: int | None
    is_reg: bool
    concepts: list[Concept] = field(default_factory=list[Concept])
    findings: list[Finding] = field(default_factory=list[Finding])
    corrected: list[FileIssue] = field(default_factory=list[FileIssue])

    def error(self, text: Message, fix: Message) -> None:
        self.findings.append(Finding(kind="folder", level="error", text=text, fix=fix))

    def correct(self, folder: str, text: Message) -> None:
        self.findings.append(Finding(kind="folder_corrected", level="note", text=text))
        self.corrected.append(FileIssue(path=folder or self.root_name, why=text))

    def images_in(self, folder: str) -> Sequence[FileEntry]:
        return self.by_folder.get(folder, ())

    def images_below(self, folder: str) -> list[FileEntry]:
        prefix = f"{folder}/" if folder else ""
        return [
            image
            for name, images in self.by_folder.items()
            if name != folder and name.startswith(prefix)
            for image in images
        ]

    def children(self, folder: str) -> list[str]:
        """Sub-folders of `folder` that hold images, directly or deeper."""
        prefix = f"{folder}/" if folder else ""
        found = {
            prefix + name[len(prefix) :].split("/")[0]
            for name in self.by_folder
            if name != folder and name.startswith(prefix)
        }
        return sorted(found)

    def add(
        self, folder: str, repeats: int, class_tokens: str, images: Iterable[FileEntry]
    ) -> None:
        name = folder.rpartition("/")[2] or self.root_name
        self.concepts.append(
            Concept(
                folder=folder,
                name=name,
                num_repeats=repeats,
                class_tokens=class_tokens,
                is_reg=self.is_reg,
                images=tuple(images),
            )
        )


def build_view(
    entries: Sequence[FileEntry],
    *,
    root_name: str,
    num_repeats: int | None = None,
    is_reg: bool = False,
) -> View:
    """The concepts of a tree. `root_name` is the tree's own folder name, `num_repeats` what the
    user set for training folders that name none.

    Regularisation images of such folders count once independent of the training images: the balance
    (`items.spread_regularisation`) repeats them as often as is needed.
    """
    reading = _Reading(_by_folder(entries), root_name, num_repeats, is_reg)
    if not reading.by_folder:
        reading.findings.append(_nothing_found(entries, root_name))
    else:
        _read_root(reading, _descend(reading))
    return View(
        concepts=tuple(reading.concepts),
        findings=tuple(reading.findings),
        corrected=tuple(reading.corrected),
    )


def subset_view(
    entries: Sequence[FileEntry],
    *,
    root_name: str,
    num_repeats: int | None,
    class_tokens: str | None,
    is_reg: bool,
) -> View:
    """The one concept of a folder that the user named with its own repeats."""
    reading = _Reading(_by_folder(entries), root_name, num_repeats, is_reg)
    named = read_folder_name(root_name)
    repeats = num_repeats if num_repeats is not None else named.num_repeats if named else 1
    tokens = class_tokens if class_tokens is not None else named.concept if named else ""
    if not reading.by_folder:
        reading.findings.append(_nothing_found(entries, root_name))
    elif repeats < 1:
        reading.error(
            msg(
                "{name}: num_repeats is {repeats}, so nothing would be trained on it",
                name=printable(root_name),
                repeats=repeats,
            ),
            msg("set num_repeats to 1 or more, or remove the subset"),
        )
    elif repeats > MOST_REPEATS:
        reading.error(
            msg(
                "{name}: num_repeats is {repeats}, and {most_repeats} is the most",
                name=printable(root_name)[:60],
                repeats=repeats,
                most_repeats=f"{MOST_REPEATS:,}",
            ),
            msg("set num_repeats = {default_repeats}", default_repeats=DEFAULT_REPEATS),
        )
    else:
        _read_concept(reading, "", repeats, tokens)
    return View(
        concepts=tuple(reading.concepts),
        findings=tuple(reading.findings),
        corrected=tuple(reading.corrected),
    )


def _by_folder(entries: Sequence[FileEntry]) -> dict[str, list[FileEntry]]:
    found: defaultdict[str, list[FileEntry]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "image":
            found[entry.folder].append(entry)
    return dict(found)


def _descend(reading: _Reading) -> str:
    """The folder that holds the concepts: below wrappers that hold one folder and nothing else,
    as a zip of a folder has them."""
    folder = ""
    while not reading.images_in(folder):
        inner = reading.children(folder)
        if len(inner) != 1 or reading.images_in(inner[0]):
            break
        name = inner[0].rpartition("/")[2]
        deeper = [
            read_folder_name(child.rpartition("/")[2]) for child in reading.children(inner[0])
        ]
        if read_folder_name(name) and not all(deeper):
            break
        folder = inner[0]
    if folder:
        reading.correct(
            folder, msg("the images are in the inner folder {name}", name=printable(folder))
        )
    return folder


def _read_root(reading: _Reading, root: str) -> None:
    children = reading.children(root)
    if reading.images_in(root):
        own = read_folder_name(root.rpartition("/")[2] or reading.root_name)
        if children and not own and any(_is_named(child) for child in children):
            loose = [image.path for image in reading.images_in(root)]
            reading.error(
                msg(
                    "{images} beside the concept folders: {names}",
                    images=plural("{n} image", "{n} images", len(loose)),
                    names=names(loose),
                ),
                msg("move them into a folder such as 10_name; kohya's tools would pass over them"),
            )
        else:
            _read_named_or_plain(reading, root, own, has_siblings=False)
        return
    convention = any(_is_named(child) for child in children)
    for child in children:
        named = read_folder_name(child.rpartition("/")[2])
        _read_named_or_plain(reading, child, named, has_siblings=convention)


def _is_named(folder: str) -> bool:
    return read_folder_name(folder.rpartition("/")[2]) is not None


def _read_named_or_plain(
    reading: _Reading, folder: str, named: FolderName | None, *, has_siblings: bool
) -> None:
    """Add one concept folder, or report why it is none. `has_siblings`: others name repeats."""
    name = folder.rpartition("/")[2] or reading.root_name
    label = printable(name)
    if named is None:
        _read_plain(reading, folder, name, has_siblings=has_siblings)
    elif named.num_repeats < 1:
        reading.error(
            msg(
                'folder "{folder}" requests {num_repeats} repeats, so it would not be trained',
                folder=label,
                num_repeats=named.num_repeats,
            ),
            msg(
                'rename it to "{default_repeats}_{name}", or move it away',
                default_repeats=DEFAULT_REPEATS,
                name=printable(named.concept),
            ),
        )
    elif named.num_repeats > MOST_REPEATS:
        reading.error(
            msg(
                'folder "{folder}" requests more than {most_repeats} repeats of each image',
                folder=label[:60],
                most_repeats=f"{MOST_REPEATS:,}",
            ),
            msg(
                'rename it to "{default_repeats}_{name}"',
                default_repeats=DEFAULT_REPEATS,
                name=printable(named.concept),
            ),
        )
    else:
        if not named.exact:
            right = f"{named.num_repeats}_{printable(named.concept)}"
            reading.correct(
                folder, msg('folder "{folder}" is read as "{right}"', folder=label, right=right)
            )
        if named.num_repeats > MANY_REPEATS:
            text = msg(
                'folder "{folder}" requests {num_repeats} repeats of each image',
                folder=label,
                num_repeats=f"{named.num_repeats:,}",
            )
            fix = msg(
                'if the number is part of the name, rename it to "{default_repeats}_{folder}"',
                default_repeats=DEFAULT_REPEATS,
                folder=label,
            )
            reading.findings.append(
                Finding(kind="many_repeats", level="warning", text=text, fix=fix)
            )
        _read_concept(reading, folder, named.num_repeats, named.concept)


def _read_plain(reading: _Reading, folder: str, name: str, *, has_siblings: bool) -> None:
    label = printable(name)
    ending = _repeats_at_the_end(reading, folder)
    if reading.num_repeats is None and ending:
        reading.error(
            msg(
                'folder "{folder}": is {ending} its repeats or part of its name?',
                folder=label,
                ending=ending[1],
            ),
            msg(
                'rename it to "{ending}_{name}" for {ending} repeats, or set num_repeats',
                ending=ending[1],
                name=printable(ending[0]),
            ),
        )
    elif reading.num_repeats is None and has_siblings:
        reading.error(
            msg('folder "{folder}" names no repeats, the folders beside it do', folder=label),
            msg(
                'rename it to "{default_repeats}_{folder}", or set num_repeats',
                default_repeats=DEFAULT_REPEATS,
                folder=label,
            ),
        )
    else:
        if reading.is_reg:
            _read_concept(reading, folder, 1, name if folder else "")
            return
        repeats = DEFAULT_REPEATS if reading.num_repeats is None else reading.num_repeats
        text = msg(
            '"{folder}" names no repeats: each of its images is seen {repeats} times an epoch',
            folder=label,
            repeats=repeats,
        )
        fix = msg(
            'set num_repeats, or name the folder "{repeats}_{folder}"',
            repeats=repeats,
            folder=label,
        )
        if repeats != reading.num_repeats:
            reading.findings.append(Finding(kind="plain_folder", level="note", text=text, fix=fix))
        _read_concept(reading, folder, repeats, name if folder else "")


def _repeats_at_the_end(reading: _Reading, folder: str) -> tuple[str, int] | None:
    """("cat", 10) for `cat_10`, unless neighbours show that the number counts folders."""
    parent, _, name = folder.rpartition("/")
    found = re.fullmatch(r"(.*\D?)[-_ x](\d{1,3})x?", name, re.DOTALL)
    if not found or not 2 <= int(found[2]) <= MANY_REPEATS:
        return None
    neighbours = [child for child in reading.children(parent) if child != folder]
    if any(child.rpartition("/")[2].startswith(found[1]) for child in neighbours):
        return None
    return found[1], int(found[2])


def _read_concept(reading: _Reading, folder: str, repeats: int, class_tokens: str) -> None:
    direct = reading.images_in(folder)
    nested = reading.images_below(folder)
    label = printable(folder or reading.root_name)
    if direct and nested:
        inner = ", ".join(f'"{printable(child)}"' for child in reading.children(folder))
        reading.error(
            msg(
                '"{folder}" holds {images} and, in {inner}, {more}',
                folder=label,
                images=plural("{n} image", "{n} images", len(direct)),
                inner=inner,
                more=plural("{n} more", "{n} more", len(nested)),
            ),
            msg("move them up into it, or away; kohya's tools would pass over the inner ones"),
        )
        return
    if nested:
        inner = ", ".join(f'"{printable(child)}"' for child in reading.children(folder))
        reading.correct(
            folder,
            msg(
                'the images in {inner} are taken as those of "{folder}"', inner=inner, folder=label
            ),
        )
    reading.add(folder, repeats, class_tokens, direct or nested)


def _nothing_found(entries: Sequence[FileEntry], root_name: str) -> Finding:
    kinds: defaultdict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.kind != "junk":
            kinds[entry.suffix or "no extension"] += 1
    seen = ", ".join(f"{count:,} {printable(suffix)}" for suffix, count in sorted(kinds.items()))
    what = msg("only {seen}", seen=seen) if seen else msg("it is empty")
    return Finding(
        kind="no_images",
        level="error",
        text=msg("no images in {name}: {what}", name=printable(root_name), what=what),
        fix=msg(
            "{example}; in a container, check that the folder is really mounted", example=EXAMPLE
        ),
    )

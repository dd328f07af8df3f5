"""The files of a folder, sub-folders included, and how an image id comes from a file's name."""

import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.output_folder import MARKER
from wsss.data.images import is_image
from wsss.data.sources.base import Problem

_logger = logging.getLogger(__name__)


class ListedFile(NamedTuple):
    """A file of a folder.

    Attributes:
        name: its path within the folder, as printable text.
        path: that opens it.
        version: in a store, what changes with its content; empty on disk.
    """

    name: str
    path: str
    version: str = ""


@dataclass
class FolderListing:
    """The files of a folder.

    Attributes:
        paths: path within the folder, as printable text -> the path to open.
        problems: sub-folders that cannot be read, dangling links and links that lead in a circle, once each.
    """

    paths: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def list_folder(folder: str, excluded: Iterable[str] = ()) -> FolderListing:
    """Lists a folder and its sub-folders in memory, by name; see `stream_folder`.

    Raises:
        UserError: the folder itself cannot be read.
    """
    listing = FolderListing()
    found = stream_folder(folder, excluded, listing.problems)
    if io.is_remote(folder):
        found = iter(sorted(found))
    listing.paths = {file.name: file.path for file in found}
    return listing


def stream_folder(folder: str, excluded: Iterable[str], problems: list[Problem]) -> Iterator[ListedFile]:
    """Yields the files of a folder and its sub-folders; links to folders are followed.

    Names that begin with a dot are left out, and so are sub-folders that a program of wsss wrote (they bear
    its marker): masks are no photographs. On disk they come by name within each folder.

    Args:
        folder: local folder or `gs://…`.
        excluded: folders that are left out, compared as real paths.
        problems: list that what cannot be listed is added to.

    Raises:
        UserError: the folder itself cannot be read.
    """
    folder, excluded = os.fspath(folder).rstrip("/") or "/", [os.fspath(path) for path in excluded]
    if io.is_remote(folder):
        prefixes = tuple(f"{path.rstrip('/')}/" for path in excluded)
        for path, version in io.stream_versions(io.join(io.escape(folder), "**")):
            if not path.startswith(prefixes):
                yield ListedFile(path[len(folder) + 1 :], path, version)
        return
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UserError(f"The folder {printable(folder)} cannot be read: {error.strerror}.") from error
    excluded_paths = {os.path.realpath(path) for path in excluded}
    quoted = set()  # only names with a backslash can be equal once printed
    for path in _walk(folder, "", (os.path.realpath(folder),), excluded_paths, problems):
        name = printable(path)
        if name in quoted:
            problems.append(
                Problem(name, "folder", "duplicate", "Two files have this name once printed.", "Rename one.")
            )
            continue
        if "\\" in name:
            quoted.add(name)
        yield ListedFile(name, os.path.join(folder, path))


def _walk(root, inside, ancestors, excluded, problems) -> Iterator[str]:
    """Paths of the files below `root`/`inside`, relative to `root`, sorted within each folder."""
    try:
        with os.scandir(os.path.join(root, inside)) as found:
            names, others = _names(found)
    except OSError as error:
        problems.append(_folder_problem(inside, "unreadable", f"{error.strerror}.", "Allow reading it."))
        return
    if inside and MARKER in names:
        _logger.info("%s holds results of wsss: not read.", inside)
        return
    for name in names:
        if name.startswith("."):
            continue
        path, entry = os.path.join(inside, name), others.get(name)
        if entry is None or entry.is_file():
            yield path
        elif entry.is_dir():
            real = os.path.realpath(entry.path)
            if real in ancestors:
                detail = "The link leads to a folder that it lies in."
                problems.append(_folder_problem(path, "link_loop", detail, "Remove the link."))
            elif real not in excluded:
                yield from _walk(root, path, (*ancestors, real), excluded, problems)
        elif entry.is_symlink():
            detail = "The link leads to no file."
            problems.append(_folder_problem(path, "dangling_link", detail, "Restore the file."))


def _names(entries):
    """The names in a folder, sorted, and the entries, which are large, of what is no plain file, by name."""
    names, others = [], {}
    for entry in entries:
        names.append(entry.name)
        if not entry.is_file(follow_symlinks=False):
            others[entry.name] = entry
    return sorted(names), others


def list_by_split(directory: str, layout: str, wanted: Callable[[str], bool]) -> dict[tuple[str, str], str]:
    """The files of a layout that has a folder a split, sub-folders included.

    Args:
        directory: folder or `gs://…`.
        layout: where the files of a split are in it, such as `images/{split}` or `{split}/data`.
        wanted: of a path, whether it is taken.

    Returns:
        `(split, path in its folder without suffix)` -> path to open; files of no split are `train`.
    """
    split, name = "(?P<split>[^/]+)", "(?P<name>.+)"
    in_split = re.compile(f"{layout.format(split=split)}/{name}")
    alone = re.compile(f"{layout.format(split='').strip('/')}/{name}")
    start = len(os.fspath(directory).rstrip("/")) + 1
    found = {}
    for path in io.list_files(io.join(io.escape(directory), "**")):
        inside = path[start:].replace(os.sep, "/")
        match = in_split.fullmatch(inside) or alone.fullmatch(inside)
        if match and wanted(path):
            fields = match.groupdict()
            found[fields.get("split", "train"), fields["name"].rsplit(".", 1)[0]] = path
    return found


def _folder_problem(path, reason, detail, remedy):
    return Problem(printable(path), "folder", reason, detail, remedy)


def printable(text: str) -> str:
    r"""A file name as text that any file can hold: bytes that are no UTF-8 are written `\xff`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stem(path: str) -> str:
    """`path` without the suffix of an image."""
    return path.rsplit(".", 1)[0] if is_image(path) else path


def image_ids(paths: Iterable[str]) -> dict[str, str]:
    """The id of each image: its path in the folder, without suffix unless two differ in nothing else."""
    paths = list(paths)
    count = Counter(map(stem, paths))
    return {path: stem(path) if count[stem(path)] == 1 else path for path in paths}


class NameHints:
    """Finds the file that an id which names none was probably meant for.

    Args:
        paths: the files' paths in the folder.
    """

    def __init__(self, paths: Iterable[str]):
        self._alike, self._same_name = defaultdict(list), defaultdict(list)
        for path in paths:
            self._alike[_normalize(path)].append(path)
            self._same_name[_normalize(path.rsplit("/", 1)[-1])].append(path)

    def __call__(self, image_id: str) -> str:
        """A sentence about the likely file, or an empty string."""
        for candidates in (
            self._alike.get(_normalize(image_id), ()),
            self._same_name.get(_normalize(image_id.replace("\\", "/").rsplit("/", 1)[-1]), ()),
        ):
            if len(candidates) == 1:
                return f" Did you mean `{candidates[0]}`{_difference(image_id, candidates[0])}?"
        return ""


def _normalize(path):
    """What is left of a path when Unicode form, case, suffix and leading zeros do not count."""
    text = unicodedata.normalize("NFC", path.replace("\\", "/").removeprefix("./"))
    parts = [part.strip() for part in stem(text).casefold().split("/")]
    return "/".join(part.lstrip("0") or "0" for part in parts)


def _difference(image_id, path):
    names = (image_id, path if is_image(image_id) else stem(path))
    nfc = [unicodedata.normalize("NFC", name) for name in names]
    if nfc[0] == nfc[1]:
        return " (the same letters in another Unicode form, NFC or NFD)"
    if nfc[0].casefold() == nfc[1].casefold():
        return " (upper and lower case differ)"
    if nfc[0].lstrip("0") == nfc[1].lstrip("0"):
        return " (leading zeros differ: spreadsheets drop them)"
    return ""

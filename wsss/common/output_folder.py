"""Output folders: what a program may write to, and how new results take the place of old ones.

A program writes only into a folder that is empty or that bears a marker, `wsss_output.json`, of the same kind
of output. The marker lists the files that belong to the output; nothing else in the folder is ever removed.
Where the names of such files depend on the data, an output lists them when it is complete, and a file beside
them that only looks like one of them, such as a mask that the user drew, is the user's.
Results that replace others are first written beside them, in the hidden sub-folder `.new`, and take their
places only when they are complete:

    folder = claim("labels", "pseudo_labels", owned=("masks/**/*.png", …), inputs=["shards"], overwrite=True)
    …                                  # read the input; the folder is untouched while that may fail
    folder.begin()                     # writes the marker
    write_everything(folder.work)      # `labels`, or `labels/.new` while there are results to be replaced
    folder.publish()                   # from now on the new results are at `labels`

What version 0.1.0 wrote, without a marker, is recognized by the files that it left.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from importlib import metadata
from typing import Any

from wsss.common import io
from wsss.common.errors import UserError

MARKER = "wsss_output.json"
_NEW, _READY = ".new", ".ready"
_NO_CONTENT = {"lost+found", "Thumbs.db", "desktop.ini"}  # what file systems put into every folder
KINDS = {
    "collection": "a collection",
    "run": "a training run",
    "pseudo_labels": "pseudo labels",
    "evaluation": "an evaluation",
    "demo": "a demo",
    "export": "an export",
    "project": "a project",
}


@dataclass(frozen=True)
class Marker:
    """The content of `wsss_output.json`.

    Attributes:
        kind: of the output, one of `KINDS`.
        version: of wsss that wrote it.
        owned: patterns, relative to the folder, of the files that belong to the output.
        kept: names of files that match a pattern but are the user's.
    """

    kind: str
    version: str
    owned: tuple[str, ...]
    kept: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Any, path: io.Path) -> "Marker":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed, or a pattern leaves the folder.
        """
        try:
            kind, version, owned = value["kind"], value["version"], tuple(value["owned"])
            kept = tuple(value.get("kept", ()))
            valid = kind in KINDS and isinstance(version, str) and all(map(_stays_inside, owned + kept))
        except (KeyError, TypeError, AttributeError):
            valid = False
        if not valid:
            raise UserError(
                f"{path} is damaged: it must hold `kind`, `version` and `owned`. Name another folder."
            )
        return cls(kind, version, owned, kept)


@dataclass(frozen=True)
class OutputFolder:
    """A folder that a program may write to.

    Attributes:
        path: the folder, where the results are in the end.
        kind: one of `KINDS`.
        owned: patterns of the files that belong to the output. Earlier ones are removed first and written
            last: put the files that mark an output as complete at the beginning.
        replaces: whether results that are there are to be replaced (`--overwrite`).
        kept: names of files that match a pattern but are the user's; they are never removed.
    """

    path: str
    kind: str
    owned: tuple[str, ...]
    replaces: bool
    kept: frozenset[str] = frozenset()

    @property
    def work(self) -> str:
        """Where to write until `publish`."""
        return io.join(self.path, _NEW) if self.replaces else self.path

    def begin(self, clear: bool = False) -> None:
        """Writes the marker, so that the folder is ours from now on.

        Nothing else may write there meanwhile: temporary files of a process that was killed are removed.

        Args:
            clear: whether to remove what an interrupted run left in `work`; a program that goes on with such
                files leaves them.
        """
        if clear:
            self.clear()
            io.remove_unfinished(self.path, below=True)
        folders = (pattern.rpartition("/")[0] for pattern in self.owned if "**" not in pattern)
        for folder in {self.path, *(io.join(self.path, name) for name in folders if name)}:
            io.remove_unfinished(folder)
        marker = Marker(self.kind, _version(), self.owned, tuple(sorted(self.kept)))
        io.write_json(io.join(self.path, MARKER), asdict(marker))

    def clear(self) -> None:
        """Removes the output's own files from `work`, and nothing else."""
        if self.replaces:
            io.remove_tree(self.work)
            return
        io.remove_files([io.join(self.path, name) for name in self.files()])

    def files(self) -> list[str]:
        """The output's own files in `path`, relative to it, in the order of `owned`."""
        return replace(self, replaces=False).results()

    def results(self) -> list[str]:
        """Files in `work` that belong to the output, relative to it, in the order of `owned`."""
        kept = () if self.replaces else self.kept
        return [name for name in _matching(self.work, self.owned) if name not in kept]

    def publish(self) -> None:
        """Puts the results in `work` in the places of the old ones. To be called when they are complete."""
        if not self.replaces:
            return
        ready = io.join(self.work, _READY)  # names the old files; after a kill, `claim` goes on from it
        if not io.exists(ready):
            io.write_json(ready, self.files())
        io.remove_files([io.join(self.path, name) for name in io.read_json(ready)])
        io.write_json(ready, [])
        new = [name for name in _all_files(self.work) if name != _READY and not io.is_unfinished(name)]
        for _, group in itertools.groupby(sorted(new, key=self._rank, reverse=True), key=self._rank):
            names = list(group)
            io.move_files(*([io.join(folder, name) for name in names] for folder in (self.work, self.path)))
        io.remove_tree(self.work)

    def _rank(self, name):
        ranks = (rank for rank, pattern in enumerate(self.owned) if _matches(name, pattern))
        return next(ranks, len(self.owned))


def claim(
    folder: io.Path,
    kind: str,
    *,
    owned: Iterable[str],
    inputs: Iterable = (),
    overwrite: bool = False,
    resumes: bool = True,
    complete: str = "",
    written: Callable[[str], Iterable[str] | None] | None = None,
) -> OutputFolder:
    """Checks that a program may write to a folder. Nothing is written or removed yet.

    Args:
        folder: local path or `gs://…`.
        kind: of the output, one of `KINDS`.
        owned: patterns of the output's files, relative to the folder; see `OutputFolder.owned`.
        inputs: paths that the program reads, which the output must not touch.
        overwrite: whether results that are there are replaced.
        resumes: whether the program goes on with, or keeps, what is there unless `overwrite`.
        complete: of a program that does not resume, the file whose presence says that results are complete.
        written: function of the folder that gives the names of all files of a complete output, or None of
            one that is not complete: what matches a pattern there is taken for a part of it.

    Returns:
        `OutputFolder`.

    Raises:
        UserError: the folder is an input, holds files that are not ours, or results that are to be kept; or
            the path is empty, which would be the current folder whatever it holds.
    """
    path, owned = os.fspath(folder), tuple(owned)
    if not path.strip():
        raise UserError(
            "The path of the output is empty. Name a new or empty folder; `.` is the current one."
        )
    _check_inputs(path, owned, inputs)
    marker = read_marker(path)
    if marker is None:
        foreign = _foreign_file(path)
        if foreign:
            name = _json_object(path, "dataset_info.json").get("name")
            found = f"the data set `{name}`" if name else f"files such as {foreign}"
            raise UserError(f"{path} holds {found}, which wsss did not write. Name a new or empty folder.")
        return OutputFolder(path, kind, owned, replaces=False)
    if marker.kind != kind:
        raise UserError(f"{path} holds {KINDS[marker.kind]}, not {KINDS[kind]}. Name another folder.")
    owned = tuple(dict.fromkeys((*owned, *marker.owned)))
    unfinished = OutputFolder(path, kind, owned, replaces=True)
    if io.exists(io.join(unfinished.work, _READY)):
        unfinished.publish()
    claimed = OutputFolder(path, kind, owned, replaces=False, kept=_kept(path, owned, marker, written))
    if overwrite:
        return replace(claimed, replaces=bool(claimed.files()))
    if not resumes and io.exists(io.join(path, complete)):
        raise UserError(
            f"{path} holds {KINDS[kind]} already. Name another folder, or pass `--overwrite` to replace it."
        )
    return claimed


def read_marker(folder: io.Path) -> Marker | None:
    """The marker of a folder, or one that describes what version 0.1.0 left there; None where it is not ours.

    Raises:
        UserError: the marker is damaged.
    """
    path = io.join(folder, MARKER)
    if io.exists(path):
        return Marker.from_json(io.read_json(path), path)
    for kind, recognize in _WITHOUT_MARKER.items():
        owned = recognize(folder)
        if owned is not None:
            return Marker(kind, "0.1.0", owned)
    return None


def same_place(first: io.Path, second: io.Path) -> bool:
    """Whether two paths name one file or folder, through links, dots and differences of case."""
    return _place(first) == _place(second)


def is_inside(path: io.Path, folder: io.Path) -> bool:
    """Whether `path` is `folder` or lies in it, through links, dots and differences of case."""
    if io.is_remote(path) or io.is_remote(folder):
        return f"{_place(path)}/".startswith(f"{_place(folder)}/")
    return _place(folder) in {_place(parent) for parent in _with_parents(os.path.realpath(path))}


def relative_inside(path: io.Path, folder: io.Path) -> str:
    """`path` relative to `folder`, in which it lies (`is_inside`); empty where they are one."""
    if io.is_remote(path):
        return _place(path)[len(_place(folder)) + 1 :]
    real, place = os.path.realpath(path), _place(folder)
    parent = next(parent for parent in _with_parents(real) if _place(parent) == place)
    return os.path.relpath(real, parent).replace(os.sep, "/").removeprefix(".").lstrip("/")


def _place(path):
    """What is equal for two paths of one place: device and number of an existing file, else the real path."""
    path = os.fspath(path)
    if io.is_remote(path):
        scheme, _, rest = path.partition("://")
        bucket, *parts = [part for part in rest.split("/") if part not in ("", ".")] or [""]
        return "/".join((f"{scheme.lower()}:", bucket.lower(), *parts))
    try:
        status = os.stat(path)
        return status.st_dev, status.st_ino
    except OSError:
        return os.path.realpath(path)


def _with_parents(path):
    yield path
    while os.path.dirname(path) != path:
        path = os.path.dirname(path)
        yield path


def _check_inputs(path, owned, inputs):
    for given in filter(None, inputs):
        if same_place(path, given):
            raise UserError(
                f"The output {path} is also the input {given}. Name another folder for the output."
            )
        if is_inside(given, path):
            name = relative_inside(given, path)
            if any(_matches(name, pattern) or pattern.startswith(f"{name}/") for pattern in owned):
                raise UserError(
                    f"The input {given} lies among the files that {path} is to hold. "
                    "Name another output folder."
                )


def _kept(path, owned, marker, written):
    """Names of the files that match a pattern but are the user's.

    A complete output records them; of one that was interrupted they are known from before it went on.
    """
    names = written(path) if written else None
    if names is None:
        return frozenset(name for name in marker.kept if io.exists(io.join(path, name)))
    return frozenset(_matching(path, owned)) - frozenset(names)


def _foreign_file(folder):
    """The name of a file or folder in a folder that is not ours, or None where it is empty or absent."""
    if io.is_remote(folder):
        return next(iter(_all_files(folder)), None)
    if not os.path.exists(folder):
        return None
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is a file, not a folder. Name a new or empty folder.")
    names = (name for name in os.listdir(folder) if not name.startswith(".") and name not in _NO_CONTENT)
    return min(names, default=None)


def _all_files(folder):
    """Every file in a folder, hidden ones too, relative to it."""
    if io.is_remote(folder):
        prefix = len(os.fspath(folder).rstrip("/")) + 1
        return [path[prefix:] for path in io.list_files(io.join(io.escape(folder), "**"))]
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")
        for parent, _, names in os.walk(folder)
        for name in names
    )


def _matching(folder, patterns):
    """Files in a folder that match the patterns, relative to it, in the order of the patterns."""
    prefix = len(os.fspath(folder).rstrip("/")) + 1
    found: dict[str, None] = {}
    remote = _all_files(folder) if io.is_remote(folder) else []  # of a store, by one listing
    for pattern in patterns:
        if io.is_remote(folder):
            found.update(dict.fromkeys(name for name in remote if _matches(name, pattern)))
            continue
        for path in io.list_files(io.join(io.escape(folder), *pattern.split("/"))):
            found.setdefault(path[prefix:].replace(os.sep, "/"))
    found.pop(MARKER, None)
    return [name for name in found if not name.startswith(f"{_NEW}/")]


def _matches(name, pattern):
    """Whether a relative path matches a pattern in which `**` spans folders."""
    if "**" in pattern:
        first, _, last = pattern.partition("**")
        return name.startswith(first) and fnmatchcase(name, f"*{last.lstrip('/')}")
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _stays_inside(pattern):
    parts = re.split(r"[/\\]", pattern)
    return bool(pattern) and not os.path.isabs(pattern) and ".." not in parts and parts[0] not in ("", "**")


def _version():
    try:
        return metadata.version("wsss")
    except metadata.PackageNotFoundError:  # the worker's copy of this package has no metadata
        return "unknown"


def _json_object(folder, name):
    """The JSON object in a file, or an empty one where there is no such file or it holds something else."""
    path = io.join(folder, name)
    try:
        value = io.read_json(path) if io.exists(path) else {}
    except UserError:
        value = {}
    return value if isinstance(value, dict) else {}


def _old_collection(folder):
    """A collection by its description, or the plans that an interrupted `wsss.prepare` leaves."""
    files = ("dataset_info.json", "features.json", "*.labels.txt", "errors.jsonl", "summary.json")
    info = _json_object(folder, "dataset_info.json")
    ours = str(info.get("description", "")).startswith(
        ("Images with image-level labels, made by wsss.prepare", "Drawn scenes of ")
    )
    if ours and re.fullmatch(r"[a-z][a-z0-9_]*", str(info.get("name"))):
        return (*files, f"{info['name']}-*.tfrecord-*-of-*", ".plan/*")
    plans = io.list_files(io.join(io.escape(folder), ".plan", "*.plan.json"))
    names = {os.path.basename(plan).rsplit("-", 4)[0] for plan in plans}
    return (*files, *(f"{name}-*.tfrecord-*-of-*" for name in sorted(names)), ".plan/*") if plans else None


def _old_run(folder):
    config = _json_object(folder, "config.json")
    options = config.get("options")
    recorded = isinstance(options, dict) and {"backbone", "model"} <= options.keys()
    if config.get("program") != "wsss.train" and not recorded:
        return None
    return ("result.json", "config.json", "model.keras", "history.csv", "checkpoint/*", "tensorboard/*")


def _old_pseudo_labels(folder):
    if not {"options", "model_hash", "class_names"} <= set(_json_object(folder, "options.json")):
        return None
    top = ("threshold.json", "errors.jsonl", "summary.json", "metrics.json", "report.html")
    records = ("dataset_info.json", "features.json", "*.labels.txt", "*.tfrecord-*-of-*")
    pictures = ("masks/**/*.png", "scores/**/*.npz", "previews/**/*.png")
    return ("manifests/*.json", "options.json", *top, *records, *pictures)


def _old_evaluation(folder):
    if not {"undecided_counts_as", "classes", "miou"} <= set(_json_object(folder, "metrics.json")):
        return None
    return ("metrics.json", "classes.csv", "threshold_curve.csv", "threshold_curve.png")


def _old_demo(folder):
    parts = ("data", "classifier")
    recognize = (_old_collection, _old_run)
    ours = all(found(io.join(folder, part)) is not None for found, part in zip(recognize, parts))
    return ("report.html",) if ours else None


# Of version 0.1.0: kind -> the patterns of its files where a folder holds one, else None. Pseudo labels come
# first: as TFRecord files they are a collection too.
_WITHOUT_MARKER: dict[str, Callable] = {
    "pseudo_labels": _old_pseudo_labels,
    "collection": _old_collection,
    "run": _old_run,
    "evaluation": _old_evaluation,
    "demo": _old_demo,
}

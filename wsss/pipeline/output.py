"""The output folder: what lies where, how an id becomes a file name, what the labels were made with."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from wsss.common import io
from wsss.common.arrays import read_npz
from wsss.common.errors import UserError
from wsss.common.file_names import file_name
from wsss.common.output_folder import OutputFolder, claim
from wsss.common.schema import Fields

MASKS, SCORES, PREVIEWS, MANIFESTS = "masks", "scores", "previews", "manifests"
PLANS = ".plan"  # what a job on a cluster is to do, while it runs
RESULTS = (
    "errors.jsonl",
    "summary.json",
    "metrics.json",
    "images.csv",
    "report.html",
    "dataset_info.json",
    "fingerprints.json",
)
# Files of the output folder that are ours, those that mark it as complete first.
OWNED = (
    f"{MANIFESTS}/*.json",
    *(
        "options.json",
        "threshold.json",
        "refinement.json",
        "retired.json",
        "job.json",
        *RESULTS,
        "features.json",
        "*.labels.txt",
    ),
    *("*.tfrecord-*-of-*", f"{MASKS}/**/*.png", f"{SCORES}/**/*.npz", f"{PREVIEWS}/**/*.png"),
    f"{PLANS}/*.json",
)


@dataclass(frozen=True)
class Layout:
    """Where in an output folder lies what.

    Attributes:
        root: the output folder, local or remote.
        kept: paths of files that lie among ours but are the user's.
    """

    root: str
    kept: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folder: OutputFolder) -> "Layout":
        """Where labels are written in an output folder until it is published."""
        kept = () if folder.replaces else folder.kept
        return cls(folder.work, frozenset(io.join(folder.path, name) for name in kept))

    def mask(self, image_id: str) -> str:
        """Palette PNG: 0 background, 1..K class."""
        return io.join(self.root, MASKS, f"{file_name(image_id)}.png")

    def scores(self, image_id: str) -> str:
        """Score file, see `ImageScores`."""
        return io.join(self.root, SCORES, f"{file_name(image_id)}.npz")

    def preview(self, image_id: str) -> str:
        """PNG: image, strongest score, mask and, where known, truth, side by side."""
        return io.join(self.root, PREVIEWS, f"{file_name(image_id)}.png")

    def manifest(self, shard: str) -> str:
        """The manifest of a shard; once it is there, the shard is finished."""
        return io.join(self.root, MANIFESTS, f"{shard}.json")

    def free(self, path: str) -> str:
        """The path of a file to be written.

        Raises:
            UserError: a file of the user's is there.
        """
        if path in self.kept:
            raise UserError(f"{path} was not written by wsss. Move it, or pass `--overwrite` to replace it.")
        return path

    def path(self, name: str) -> str:
        """A file at the top."""
        return io.join(self.root, name)

    def manifest_paths(self) -> list[str]:
        """The manifests of all finished shards."""
        return io.list_files(io.join(io.escape(self.root), MANIFESTS, "*.json"))

    def remove_unfinished(self) -> None:
        """Removes the temporary files that a killed run left in a local folder."""
        if not io.is_remote(self.root):
            for folder, _, _ in os.walk(self.root):
                io.remove_unfinished(folder)


@dataclass(frozen=True)
class LabelSettings:
    """What labels are made with: the content of `options.json`.

    Attributes:
        options: those that the labels depend on, as JSON gives them back.
        model_hash: of the model that gives the CAMs.
        class_names: the foreground classes.
        affinity_model_hash: of the model that gives the affinities, or None.
    """

    options: dict[str, Any]
    model_hash: str
    class_names: tuple[str, ...]
    affinity_model_hash: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, see `from_json`."""
        return {**asdict(self), "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, value: Any, path: str) -> "LabelSettings":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, "Pass `--overwrite` to make the labels anew.")
        return cls(
            fields.get("options", dict),
            fields.get("model_hash", str),
            fields.texts("class_names"),
            fields.get("affinity_model_hash", str, None),
        )

    def difference(self, recorded: "LabelSettings") -> str:
        """The first difference to recorded settings, in words; empty where there is none.

        An option that the recorded ones do not know is newer than they are, and counts as equal.
        """
        here, there = ({**each.options, **each.to_json()} for each in (self, recorded))
        for name in sorted(here):
            if name != "options" and name in there and there[name] != here[name]:
                return f"{name} {there[name]} there, {here[name]} here"
        return ""


def open_output(
    path: str,
    settings: LabelSettings,
    *,
    inputs: Iterable[str] = (),
    overwrite: bool = False,
    written: Callable[[str], Iterable[str] | None] | None = None,
) -> OutputFolder:
    """Makes the output folder ours, or checks that what lies there was made with the same settings.

    Args:
        path: the folder, local or remote.
        settings: of this job.
        inputs: paths that the job reads, which the output must not touch.
        overwrite: whether labels that are there are replaced, as soon as the new ones are complete.
        written: names the files of complete labels, see `wsss.common.output_folder.claim`.

    Returns:
        `OutputFolder`; labels are written to its `work`.

    Raises:
        UserError: the folder holds other files, or labels made with other settings.
    """
    folder = claim(path, "pseudo_labels", owned=OWNED, inputs=inputs, overwrite=overwrite, written=written)
    layout = Layout.of(folder)
    recorded_path = layout.path("options.json")
    difference = "options not recorded" if layout.manifest_paths() else ""
    if io.exists(recorded_path):
        try:
            recorded = LabelSettings.from_json(io.read_json(recorded_path), recorded_path)
            difference = settings.difference(recorded)
        except UserError:
            if not folder.replaces:
                raise
            difference = "options damaged"
    if difference and not folder.replaces:
        raise UserError(
            f"{path} holds labels made with other options ({difference}). Name another `--output`, or pass "
            "`--overwrite`."
        )
    folder.begin(clear=bool(difference))
    layout.remove_unfinished()
    io.write_json(recorded_path, settings.to_json())
    return folder


class ImageScores(NamedTuple):
    """What a model gives for an image, before any refinement: the content of a score file.

    Attributes:
        class_ids: 0-based, ascending.
        scores: float32 `(len(class_ids), height, width)` in [0, 1], exact in float16.
        classifier_scores: float32 `(classes,)`.
        agreement: float32 `(len(class_ids),)`, how alike the CAMs of the views are; None of a single view.
        background: float32 `(height, width)`, its probability by a segmentation network; None of CAMs.
    """

    class_ids: tuple[int, ...]
    scores: np.ndarray
    classifier_scores: np.ndarray
    agreement: np.ndarray | None = None
    background: np.ndarray | None = None

    def encode(self) -> bytes:
        """Bytes of a score file."""
        others = {"classifier_scores": self.classifier_scores}
        if self.agreement is not None:
            others["agreement"] = self.agreement
        if self.background is not None:
            others["background"] = self.background.astype(np.float16)
        return encode_scores(self.scores, self.class_ids, **others)

    @classmethod
    def decode(cls, data: bytes) -> "ImageScores":
        """From the bytes of a score file.

        Raises:
            ValueError: the bytes are no such file, or one of an earlier version, which holds less.
        """
        scores, class_ids, others = _decode(data)
        if "classifier_scores" not in others:
            raise ValueError("A score file of an earlier version, without the classifier's scores.")
        names = ("classifier_scores", "agreement", "background")
        classifier_scores, agreement, background = (others.get(name) for name in names)
        ids = tuple(class_ids.tolist())
        is_whole = (
            all(each is None or each.dtype.kind == "f" for each in (classifier_scores, agreement, background))
            and classifier_scores.ndim == 1
            and list(ids) == sorted({*ids} & {*range(len(classifier_scores))})
            and (agreement is None or agreement.shape == class_ids.shape)
            and (background is None or background.shape == scores.shape[1:])
            and all(np.isfinite(each).all() for each in (scores, classifier_scores))
        )
        if not is_whole:
            raise ValueError("Not a whole score file: its arrays do not fit together.")
        if background is not None:
            background = background.astype(np.float32)
        return cls(ids, scores, classifier_scores, agreement, background)


def encode_scores(scores: np.ndarray, class_ids: Sequence[int], **others: np.ndarray) -> bytes:
    """Bytes of an `.npz` with `scores` as float16 and `keys`, the class ids; equal arrays give equal bytes.

    On disk the class ids are called `keys`, as in version 0.1.0: readers that
    users wrote for these files go on working.

    Args:
        scores: float `(classes, height, width)`.
        class_ids: of the rows of `scores`, 0-based.
        **others: further arrays by name.
    """
    stream = BytesIO()
    arrays: dict[str, Any] = {"scores": scores.astype(np.float16), "keys": np.asarray(class_ids, np.int32)}
    np.savez_compressed(stream, **(arrays | others))
    return stream.getvalue()


def decode_scores(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """`(scores, class_ids)` from `encode_scores`: float32 `(classes, height, width)` and int `(classes,)`.

    Raises:
        ValueError: the bytes are no such file.
    """
    return _decode(data)[:2]


def _decode(data):
    """`(scores, class_ids, others)`, the last by name."""
    try:
        arrays = read_npz(data)
        scores, class_ids = arrays.pop("scores"), arrays.pop("keys")
        if scores.ndim != 3 or scores.dtype.kind != "f" or class_ids.shape != scores.shape[:1]:
            raise ValueError(f"scores {scores.shape} of {class_ids.shape} classes")
        if class_ids.dtype.kind not in "iu":
            raise ValueError(f"class ids {class_ids.dtype}")
        return scores.astype(np.float32), class_ids, arrays
    except (KeyError, ValueError) as error:
        raise ValueError(f"Not a whole score file, `.npz` of `scores` and `keys` ({error}).") from error

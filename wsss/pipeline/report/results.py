"""What the report shows: `summary.json` and `metrics.json`, read back and checked."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.schema import Fields

_REMEDY = "Run the same command of pipelines/pseudo_labels.py again: it writes the results anew."


class TagCounts(NamedTuple):
    """Numbers of images: tagged with a class, of these predicted to hold it, all predicted to hold it."""

    tagged: int
    found: int
    predicted: int

    @classmethod
    def from_fields(cls, fields: Fields) -> "TagCounts":
        """From the fields of a class."""
        return cls(*(fields.get(name, int) for name in cls._fields))


class Foreground(NamedTuple):
    """Fraction of the pixels that are of a class at each background threshold, and of which scores it is."""

    of: str
    thresholds: tuple[float, ...]
    fraction: tuple[float, ...]

    @classmethod
    def from_fields(cls, fields: Fields) -> "Foreground | None":
        """From the fields of a summary; None where it has no such field."""
        if fields.get("foreground", dict, None) is None:
            return None
        each = fields.object("foreground")
        return cls(each.get("of", str), each.numbers("thresholds"), each.numbers("fraction"))


class PictureEntry(NamedTuple):
    """An image with a picture: its shard, its quality score, and its place in each group that shows it."""

    image_id: str
    shard: str
    quality: float | None
    groups: dict[str, int]

    @classmethod
    def from_json(cls, value: Any, path: str) -> "PictureEntry":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, _REMEDY)
        groups = fields.object("groups")
        places = {name: groups.get(name, int) for name in fields.get("groups", dict)}
        return cls(
            fields.get("id", str), fields.get("shard", str), fields.get("quality", float, None), places
        )


@dataclass(frozen=True)
class Summary:
    """The part of `summary.json` that the report shows.

    Attributes:
        options: of the job.
        model_hash: of the model.
        class_names: the foreground classes.
        labeled, failed: numbers of images with and without a mask.
        class_pixels, class_images: by the class's name, the background's included.
        warnings: what is suspicious about the labels.
        flags: number of images by the name of a flag in `images.csv`.
        empty: ids of some of the images that were left empty.
        lowest: id and quality score of the images with the lowest.
        tags: what the classifier makes of each class's tags, by the class's name.
        foreground: fraction of the pixels that are of a class, by threshold; None in files of version 0.1.0.
        pictures: the images of which small pictures are at hand, in the shards' manifests.
        threshold: score of the background, or None where it is no constant.
    """

    options: dict[str, Any]
    model_hash: str
    class_names: tuple[str, ...]
    labeled: int
    failed: int
    class_pixels: dict[str, int]
    class_images: dict[str, int]
    warnings: tuple[str, ...] = ()
    flags: dict[str, int] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    lowest: tuple[tuple[str, float], ...] = ()
    tags: dict[str, TagCounts] = field(default_factory=dict)
    foreground: Foreground | None = None
    pictures: tuple[PictureEntry, ...] = ()
    threshold: float | None = None

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Summary":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, _REMEDY)
        images, names = fields.object("images"), fields.texts("class_names")
        every_class = ("background", *names)
        return cls(
            fields.get("options", dict),
            fields.get("model_hash", str),
            names,
            images.get("labelled", int),
            images.get("failed", int),
            {name: fields.object("class_pixels").get(name, int) for name in every_class},
            {name: fields.object("class_images").get(name, int) for name in every_class},
            fields.texts("warnings"),
            {name: fields.object("flags").get(name, int) for name in fields.get("flags", dict, {})},
            fields.texts("empty_images", ()),
            _lowest(fields, path),
            {
                name: TagCounts.from_fields(fields.object("tags").object(name))
                for name in fields.get("tags", dict, {})
            },
            Foreground.from_fields(fields),
            tuple(PictureEntry.from_json(each, path) for each in fields.get("pictures", list, [])),
            fields.get("background_threshold", float, None),
        )


@dataclass(frozen=True)
class Metrics:
    """The part of `metrics.json` that the report shows.

    Attributes:
        of: the masks that `miou` and `iou` are of, in words.
        miou: mean IoU, in [0, 1].
        iou: by the class's name; None for a class that occurs nowhere.
        used: the background threshold of the masks, or None.
        best, best_miou, tuned_on: the best threshold of the sweep, its mean IoU, and the split.
        note: how to report them.
        sweep_of: the scores that the sweep is of, in words.
        thresholds, curve: the sweep, and the mean IoU at each.
        confused_with: by the class's name, fractions of its true pixels by the other label that they get.
    """

    of: str
    miou: float
    iou: dict[str, float | None]
    used: float | None
    best: float
    best_miou: float
    tuned_on: str
    note: str
    sweep_of: str
    thresholds: tuple[float, ...]
    curve: tuple[float, ...]
    confused_with: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Metrics":
        """From parsed JSON; files of version 0.1.0 do not say what `miou` is of.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, _REMEDY)
        confused = Fields(fields.get("confused_with", dict, {}), path, _REMEDY)
        threshold, sweep, iou = (fields.object(name) for name in ("background_threshold", "sweep", "iou"))
        return cls(
            fields.get("of", str, "masks"),
            fields.get("miou", float),
            {name: iou.get(name, float, None) for name in fields.get("iou", dict)},
            threshold.get("used", float, None),
            threshold.get("best", float),
            threshold.get("best_miou", float),
            threshold.get("best_was_tuned_on", str),
            threshold.get("note", str),
            sweep.get("of", str),
            sweep.numbers("thresholds"),
            sweep.numbers("miou"),
            {
                name: {other: confused.object(name).get(other, float) for other in confused.get(name, dict)}
                for name in confused.names()
            },
        )


def _lowest(fields: Fields, path: str) -> tuple[tuple[str, float], ...]:
    if fields.get("quality", dict, None) is None:  # of version 0.1.0
        return ()
    entries = [Fields(each, path, _REMEDY) for each in fields.object("quality").get("lowest", list)]
    return tuple((each.get("id", str), each.get("quality", float)) for each in entries)


def read_summary(folder: str) -> tuple[Summary, Metrics | None]:
    """The results of a finished job; the metrics where true masks are known.

    Raises:
        UserError: there are none, or a file is damaged.
    """
    path = io.join(folder, "summary.json")
    if not io.exists(path):
        raise UserError(f"{folder} holds no finished run: there is no summary.json.")
    summary = Summary.from_json(io.read_json(path), path)
    path = io.join(folder, "metrics.json")
    return summary, Metrics.from_json(io.read_json(path), path) if io.exists(path) else None

"""The format on disk: TFRecord shards, `wsss.data.records` in a row, with TFDS's metadata beside them.

`tfds.builder_from_directory(directory)` opens it, and `open_collection` opens most image collections of TFDS.
"""

import contextlib
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wsss.common import fingerprint, io
from wsss.common.constants import check_class_count
from wsss.common.errors import UserError
from wsss.common.tf_import import import_tensorflow
from wsss.data import images
from wsss.data.label_maps import LabelMaps
from wsss.data.records import OUR_KEYS, Record, RecordKeys, parse_example, text_of
from wsss.data.tfrecord import decode_example, read_records

_INFO = "dataset_info.json"
FINGERPRINTS = "fingerprints.json"
_SHARD = "{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"
_ID_FEATURES = ("image_id", "image/id", "image/filename", "file_name", "filename", "id")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """A collection on disk: what is in it and where.

    Attributes:
        directory: folder or `gs://…` of the shards.
        name: the collection's name, which begins the shards' names.
        class_names: tuple of str, the foreground classes; class `i` is `i + 1` in a mask.
        shard_lengths: dict of split to the tuple of its shards' numbers of records.
        keys: where the records hold what.
        fingerprints: dict of file name to what the file was when the collection was made; empty where that
            is not known, as of TFDS's own data sets.
        label_maps: what is learned from in place of the records' masks; None: these.
    """

    directory: str
    name: str
    class_names: tuple[str, ...]
    shard_lengths: dict[str, tuple[int, ...]]
    keys: RecordKeys = OUR_KEYS
    fingerprints: Mapping[str, str] = field(default_factory=dict, repr=False)
    label_maps: LabelMaps | None = None

    @property
    def has_targets(self) -> bool:
        """Whether there are label maps or masks to learn from."""
        return self.label_maps is not None or self.has_masks

    @property
    def has_masks(self) -> bool:
        """Whether the records hold true masks."""
        return self.keys.mask is not None

    @property
    def split_sizes(self) -> dict[str, int]:
        """dict of split to its number of images."""
        return {split: sum(lengths) for split, lengths in self.shard_lengths.items()}

    def splits_in(self, split: str) -> list[str]:
        """The splits that a name stands for: every one for `all`, unless one is called so."""
        return list(self.shard_lengths) if split == "all" and split not in self.shard_lengths else [split]

    def shard_paths(self, split: str) -> list[str]:
        """The files of a split, in order.

        Raises:
            UserError: there is no such split.
        """
        if split not in self.shard_lengths:
            known = ", ".join(self.shard_lengths)
            raise UserError(f"{self.directory} has no split `{split}`. Name one of: {known}.")
        return [
            io.join(self.directory, shard_name(self.name, split, shard, len(self.shard_lengths[split])))
            for shard in range(len(self.shard_lengths[split]))
        ]

    def fingerprint(self, *splits) -> str:
        """One fingerprint of the class names and of the content of the shards of some splits.

        Raises:
            UserError: a shard is missing.
        """
        paths = [path for split in splits for path in self.shard_paths(split)]
        try:
            contents = fingerprint.of_files(paths)
        except FileNotFoundError as error:
            raise UserError(f"A shard of {self.directory} is missing: {error.filename or error}.") from error
        self.warn_of_changes(dict(zip(paths, contents, strict=True)))
        return fingerprint.combine((*self.class_names, *splits, *contents))

    def warn_of_changes(self, contents: Mapping[str, str]) -> None:
        """Logs one line where shards are not those that were written with the collection.

        Args:
            contents: dict of path to the fingerprint that a shard has now; what is none is passed over.
        """
        recorded = {path: self.fingerprints.get(_base(path)) for path in contents}
        changed = [
            path
            for path, content in contents.items()
            if recorded[path] not in (None, content) and fingerprint.is_of_file(content)
        ]
        if changed:
            path = changed[0]
            _logger.warning(
                "%s differs from what was prepared (fingerprint %s recorded, %s found; %d such shards): "
                "prepare %s anew if nobody changed it on purpose.",
                *(path, recorded[path], contents[path], len(changed), self.directory),
            )

    def parse(self, serialized: bytes, fallback_id: str | None = None) -> Record:
        """The `Record` in a serialized example of this collection; see `parse_example`.

        Raises:
            ValueError: the bytes are no such example.
            BadImage: the image cannot be read, or a label is beyond the classes.
        """
        record = parse_example(serialized, self.keys, fallback_id)
        if record.labels and record.labels[-1] >= len(self.class_names):
            detail = f"Image {record.image_id} has the label {record.labels[-1]}, beyond the "
            detail += f"{len(self.class_names)} classes 0..{len(self.class_names) - 1}."
            raise images.BadImage("wrongly_labelled", detail, "Correct the data set.")
        return record

    def read_shard(self, path: str) -> Iterator[Record]:
        """Yields the `Record`s of one shard, in order; a size other than the recorded one is logged."""
        base = _base(path)
        recorded = self.fingerprints.get(base)
        if recorded and io.exists(path) and io.size(path) != fingerprint.size_in(recorded):
            self.warn_of_changes({path: fingerprint.of_file(path)})
        for index, serialized in enumerate(read_records(path)):
            yield self.parse(serialized, fallback_id=f"{base}__{index}")

    def read(self, split: str) -> Iterator[Record]:
        """Yields the `Record`s of a split, in order."""
        for path in self.shard_paths(split):
            yield from self.read_shard(path)

    def check_ids(self, split: str) -> None:
        """Makes sure that no two images have one id, and thus one mask.

        `wsss.prepare` makes ids unique in each split. Data sets of TFDS itself, those of version 0.1.0, and
        several splits together are read through. Damaged and missing shards are passed over.

        Args:
            split: name of a split, or `all`.

        Raises:
            UserError: an id occurs more than once.
        """
        splits = self.splits_in(split)
        if self.keys.image_id is None or (self.fingerprints and len(splits) == 1):
            return
        counts: Counter[str] = Counter()
        for path in (path for each in splits for path in self.shard_paths(each)):
            with contextlib.suppress(OSError, ValueError):
                for serialized in read_records(path):
                    counts.update(map(text_of, decode_example(serialized).get(self.keys.image_id, ())[:1]))
        repeated = [image_id for image_id, count in counts.items() if count > 1]
        if repeated:
            remedy = f"Make them unique: `python -m wsss.prepare --tfds {self.directory} --output FOLDER`."
            if len(splits) > 1:
                remedy = "Take one split at a time, each with an output of its own."
            raise UserError(
                f"In {self.directory}, split {split}, {len(repeated)} image ids occur again, such as "
                f"`{repeated[0]}` ({counts[repeated[0]]} times); a mask has the name of its image. {remedy}"
            )


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
    """File name of a shard, as TFDS has it."""
    return _SHARD.format(name=name, split=split, shard=shard, shards=shards)


def open_collection(data: str) -> Collection:
    """Opens a collection.

    Args:
        data: a folder or `gs://…` that `wsss.prepare` (or TFDS) wrote, or the name of a TFDS data set that
            lies in TFDS's own folder, with features `image` and `labels` (or `label`).

    Returns:
        `Collection`.

    Raises:
        UserError: there is none, or one that we cannot read.
    """
    directory = str(data).rstrip("/") or "/"
    if not io.exists(io.join(directory, _INFO)):
        directory = _tfds_directory(str(data))
    try:
        collection = _read_metadata(directory, data)
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"The metadata of {data} is not TFDS's ({type(error).__name__}: {error}). Prepare it anew."
        ) from error
    check_class_count(len(collection.class_names), f"The collection {data}")
    return collection


def _read_metadata(directory, data):
    info = io.read_json(io.join(directory, _INFO))
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise UserError(f"{data} is stored as {info['fileFormat']}; only TFDS's `tfrecord` format is read.")
    features = io.read_json(io.join(directory, "features.json"))["featuresDict"]["features"]
    keys = _find_keys(features, data)
    return Collection(
        directory=directory,
        name=info["name"],
        class_names=_class_names(directory, keys.labels, features[keys.labels]),
        shard_lengths={
            split["name"]: tuple(int(length) for length in split["shardLengths"])
            for split in info["splits"]
            if split.get("shardLengths")
        },
        keys=keys,
        fingerprints=_read_fingerprints(io.join(directory, FINGERPRINTS)),
    )


def _read_fingerprints(path):
    if not io.exists(path):
        return {}
    found = io.read_object(path)
    if not all(map(fingerprint.is_of_file, found.values())):
        raise UserError(f"{path} is damaged: it must hold a fingerprint of each shard. Remove it.")
    return found


def write_metadata(
    directory: str,
    *,
    name: str,
    class_names: Sequence[str],
    shard_lengths: Mapping[str, Sequence[int]],
    split_bytes: Mapping[str, int],
    has_masks: bool,
    description: str = "",
) -> Collection:
    """Writes the shards' fingerprints and TFDS's metadata beside them; with it the collection is complete.

    Args:
        directory: folder or `gs://…` of the shards.
        name: lower-case identifier that begins the shards' names.
        class_names: the foreground classes.
        shard_lengths: dict of split to its shards' numbers of records.
        split_bytes: dict of split to the bytes in its records.
        has_masks: whether the records hold masks.
        description: a line about the collection.

    Returns:
        The `Collection`.
    """
    check_class_count(len(class_names), "The collection")
    paths = [
        io.join(directory, shard_name(name, split, shard, len(lengths)))
        for split, lengths in shard_lengths.items()
        for shard in range(len(lengths))
    ]
    contents = dict(zip(map(_base, paths), fingerprint.of_files(paths), strict=True))
    io.write_json(io.join(directory, FINGERPRINTS), contents)
    import_tensorflow()
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import DatasetIdentity

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image_id": tfds.features.Text(),
        "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(class_names))),
        "height": np.int32,
        "width": np.int32,
        "orientation": np.int32,
    }
    if has_masks:
        features["mask"] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    with tempfile.TemporaryDirectory() as scratch:
        info = tfds.core.DatasetInfo(
            builder=DatasetIdentity(
                name=name, version=tfds.core.Version("1.0.0"), data_dir=scratch, module_name=""
            ),
            description=description,
            features=tfds.features.FeaturesDict(features),
        )
        info.set_file_format("tfrecord")
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        info.set_splits(
            tfds.core.SplitDict(
                [
                    tfds.core.SplitInfo(
                        name=split,
                        shard_lengths=list(lengths),
                        num_bytes=split_bytes[split],
                        filename_template=tfds.core.ShardedFileTemplate(
                            template=template,
                            data_dir=scratch,
                            dataset_name=name,
                            split=split,
                            filetype_suffix="tfrecord",
                        ),
                    )
                    for split, lengths in shard_lengths.items()
                ]
            )
        )
        info.write_to_directory(scratch)
        written = io.list_files(io.join(scratch, "*"))
        for path in sorted(written, key=lambda path: path.endswith(_INFO)):  # what marks completion is last
            io.copy(path, io.join(directory, path.rsplit("/", 1)[-1]))
    return open_collection(directory)


def _base(path):
    return path.rsplit("/", 1)[-1]


def _tfds_directory(name):
    """Folder of a TFDS data set that is on this machine (or in its bucket)."""
    if io.is_remote(name) or io.exists(name) or not re.fullmatch(r"\w+(/[\w.\-]+)*(:[\w.]+)?", name):
        raise UserError(
            f"No collection at {name}: there is no {_INFO}. `python -m wsss.prepare` makes one from images."
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UserError(
            f"`{name}` is neither a folder with a collection nor a data set of TFDS. "
            "`python -m wsss.prepare` makes a collection from your images."
        ) from error
    directory = str(builder.data_dir)
    if not io.exists(io.join(directory, _INFO)):
        raise UserError(
            f"The TFDS data set `{name}` is not in {directory}. Fetch it once: "
            f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}').download_and_prepare()\""
        )
    return directory


def _find_keys(features, data):
    labels = next((key for key in ("labels", "label") if _class_label(features.get(key, {}))), None)
    if "image" not in features.get("image", {}) or labels is None:
        raise UserError(
            f"{data} lacks an `image` or class `labels`. Its features are: {', '.join(sorted(features))}."
        )
    size = all(key in features for key in ("height", "width", "orientation"))
    return RecordKeys(
        labels=labels,
        image_id=next((key for key in _ID_FEATURES if key in features), None),
        mask="mask" if "image" in features.get("mask", {}) else None,
        size=size,
    )


def _class_label(feature):
    """The `classLabel` part of a feature that is one, or a sequence of them; else None."""
    return feature.get("sequence", {}).get("feature", feature).get("classLabel")


def _class_names(directory, key, feature):
    path = io.join(directory, f"{key}.labels.txt")
    if io.exists(path):
        return tuple(line.strip() for line in io.read_text(path).splitlines() if line.strip())
    count = int(_class_label(feature)["numClasses"])
    check_class_count(count, f"The collection in {directory}")
    return tuple(str(index) for index in range(count))

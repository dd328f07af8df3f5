"""The records of a collection: one image each, as a serialized example of TensorFlow.

A record holds `image` (the encoded bytes as the user gave them), `image_id`, `labels` (0-based foreground
classes), `height`, `width` and `orientation` (EXIF 1..8; the size is that of the upright image) and, where
the collection has masks, `mask` (gray PNG: 0 background, 1..K class, 255 ignore). TensorFlow is not imported.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from wsss.data import images
from wsss.data.tfrecord import decode_example, encode_example


@dataclass(frozen=True)
class Record:
    """One image of a collection.

    Attributes:
        image_id: str, unique in its collection.
        image_bytes: the encoded image (JPEG, PNG, …), not rotated.
        labels: tuple of int, the classes present, 0-based foreground, ascending.
        height, width: pixels of the upright image.
        orientation: EXIF orientation, 1..8, that `images.decode_image` undoes.
        mask_bytes: gray PNG of the upright mask, or None.
    """

    image_id: str
    image_bytes: bytes = field(repr=False)
    labels: tuple[int, ...]
    height: int
    width: int
    orientation: int = 1
    mask_bytes: bytes | None = field(default=None, repr=False)

    @cached_property
    def image(self) -> np.ndarray:
        """uint8 RGB (height, width, 3), upright."""
        return images.decode_image(self.image_bytes, self.orientation)

    @cached_property
    def mask(self) -> np.ndarray | None:
        """uint8 (height, width), 0 background, 1..K class, 255 ignore; None where the collection has none."""
        return None if self.mask_bytes is None else images.decode_mask(self.mask_bytes)


@dataclass(frozen=True)
class RecordKeys:
    """Which features of an example hold what. The defaults are those of our own shards."""

    image: str = "image"
    labels: str = "labels"
    image_id: str | None = "image_id"
    mask: str | None = "mask"
    size: bool = True  # `height`, `width` and `orientation` are recorded


OUR_KEYS = RecordKeys()


def format_example(record: Record) -> bytes:
    """Serializes a `Record`; equal records give equal bytes."""
    features = {
        "image": record.image_bytes,
        "image_id": record.image_id.encode(),
        "labels": record.labels,
        "height": record.height,
        "width": record.width,
        "orientation": record.orientation,
    }
    if record.mask_bytes is not None:
        features["mask"] = record.mask_bytes
    return encode_example(features)


def parse_example(
    serialized: bytes, keys: RecordKeys | None = None, fallback_id: str | None = None
) -> Record:
    """The `Record` in a serialized example.

    Args:
        serialized: bytes of a `tf.train.Example`.
        keys: `RecordKeys`; None takes those of our own shards, the mask where there is one.
        fallback_id: the id where the examples hold none.

    Raises:
        ValueError: the bytes are no example, or lack a feature.
    """
    features = decode_example(serialized)
    if keys is None:
        keys = RecordKeys(mask="mask" if "mask" in features else None)
    missing = [key for key in (keys.image, keys.image_id, keys.mask) if key and not features.get(key)]
    if missing:
        raise ValueError(
            f"The example lacks the feature `{missing[0]}`. It has: {', '.join(sorted(features))}."
        )
    try:
        return _record(features, keys, fallback_id)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"A feature of the example is malformed: {type(error).__name__} {error}.") from error


def _record(features, keys, fallback_id):
    image_bytes = _value(features, keys.image, bytes)
    image_id = text_of(features[keys.image_id][0]) if keys.image_id else fallback_id
    if image_id is None:
        raise ValueError("The examples hold no id; pass `fallback_id`.")
    if keys.size:
        sizes = ("height", "width", "orientation")
        height, width, orientation = (_value(features, key, int) for key in sizes)
        if height < 1 or width < 1 or not 1 <= orientation <= 8:
            raise ValueError(f"The example says {height} x {width} pixels, orientation {orientation}.")
    else:  # TFDS reads pixels as they are stored, and so are its masks
        (height, width), orientation = images.stored_size(image_bytes), 1
    labels = features.get(keys.labels, ())
    if not all(isinstance(label, int) for label in labels):
        raise ValueError(f"The feature `{keys.labels}` of the example must hold whole numbers.")
    return Record(
        image_id=image_id,
        image_bytes=image_bytes,
        labels=tuple(sorted({label for label in labels if label >= 0})),
        height=height,
        width=width,
        orientation=orientation,
        mask_bytes=_value(features, keys.mask, bytes) if keys.mask else None,
    )


def _value(features, key, kind):
    """The single value of a feature."""
    value = next(iter(features.get(key, ())), None)
    if not isinstance(value, kind):
        raise ValueError(f"The feature `{key}` of the example is missing or of another kind.")
    return value


def text_of(value: object) -> str:
    """The text of a feature's value; bytes that are no UTF-8 are escaped."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)

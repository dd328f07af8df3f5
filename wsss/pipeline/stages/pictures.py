"""Small pictures of some images of each shard, for the report: those spaced evenly, the worst and the best.

Which images of a collection are the worst is known when all are done, and their scores are gone by then: so
each shard keeps the worst and the best of its own, small, in its manifest.
"""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from wsss.common.schema import Fields
from wsss.data.dataset import Record
from wsss.data.images import decode_image, voc_palette
from wsss.pipeline.quality import own_quality
from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.refine import ScoredImage

SPACED, RATED = "spaced", "rated"  # why an image has a picture
_SIDE, _SCORE_SIDE = 320, 64  # longest sides in pixels: of photograph and masks, of the scores
_MOST_CLASSES = 6  # whose scores are kept, the strongest
_QUALITY = 80  # of the JPEG


@dataclass(frozen=True)
class Picture:
    """What the report shows of an image.

    Attributes:
        photo: JPEG bytes.
        mask, truth: PNG bytes in the palette of the masks, the background transparent; no truth is None.
        class_ids: 0-based, of the scores.
        scores: uint8 `(len(class_ids), height, width)`, 255 = 1.
    """

    photo: bytes
    mask: bytes
    truth: bytes | None
    class_ids: tuple[int, ...]
    scores: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Plain values, see `from_json`."""
        value = {
            "photo": _to_text(self.photo),
            "mask": _to_text(self.mask),
            "class_ids": list(self.class_ids),
            "scores_shape": list(self.scores.shape),
            "scores": _to_text(self.scores.tobytes()),
        }
        return value if self.truth is None else {**value, "truth": _to_text(self.truth)}

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Picture":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, "Remove it: its shard is then labeled again.")
        try:
            photo, mask, scores = (_from_text(fields.get(each, str)) for each in ("photo", "mask", "scores"))
            truth = fields.get("truth", str, None)
            shape = tuple(map(int, fields.numbers("scores_shape")))
            return cls(
                photo,
                mask,
                None if truth is None else _from_text(truth),
                tuple(map(int, fields.numbers("class_ids"))),
                np.frombuffer(scores, np.uint8).reshape(shape),
            )
        except ValueError as error:
            raise fields.error(f"`pictures` must hold photographs, masks and scores ({error})") from error


class Candidate(NamedTuple):
    """An image that may be shown; its photograph is not decoded before it is.

    Attributes:
        row: of the image.
        spaced: whether it is one of those spaced evenly, which are shown whatever they are.
        record: of the image.
        mask: uint8 `(height, width)`, small.
        class_ids, scores: as in `Picture`.
    """

    row: ImageRow
    spaced: bool
    record: Record
    mask: np.ndarray
    class_ids: tuple[int, ...]
    scores: np.ndarray

    def picture(self) -> Picture:
        """The `Picture`."""
        image = Image.fromarray(decode_image(self.record.image_bytes, self.record.orientation))
        photo = BytesIO()
        image.resize(self.mask.shape[::-1], Image.Resampling.BICUBIC).save(photo, "JPEG", quality=_QUALITY)
        truth = self.record.mask
        return Picture(
            photo.getvalue(),
            _transparent_png(self.mask),
            None if truth is None else _transparent_png(shrink_labels(truth)),
            self.class_ids,
            self.scores,
        )


@dataclass(frozen=True)
class Candidates:
    """The images of a part of a shard that may be shown: of two parts, the worst and the best of both.

    Attributes:
        most: how many of the worst and of the best are kept, by each measure.
        entries: by ascending id.
    """

    most: int = 0
    entries: tuple[Candidate, ...] = ()

    @classmethod
    def of(cls, scored: ScoredImage, row: ImageRow, most: int) -> "Candidates":
        """Those of one image; none where no pictures are wanted."""
        if not most:
            return cls()
        class_ids, scores = shrink_scores(scored.scores, scored.class_ids)
        assert scored.mask is not None  # the stages before give one
        record, mask = scored.input.record, shrink_labels(scored.mask)
        return cls(most, (Candidate(row, scored.input.preview, record, mask, class_ids, scores),))

    def __add__(self, other: "Candidates") -> "Candidates":
        most = max(self.most, other.most)
        entries = sorted((*self.entries, *other.entries), key=lambda entry: entry.row.image_id)
        kept = {entry.row.image_id for entry in entries if entry.spaced}
        measures: tuple[Callable[[ImageRow], float | None], ...] = (own_quality, lambda row: row.iou)
        for measure in measures:
            rated = [(measure(entry.row), entry.row.image_id) for entry in entries]
            order = sorted(pair for pair in rated if pair[0] is not None)
            kept.update(image_id for _, image_id in (*order[:most], *order[-most:]))
        return Candidates(most, tuple(entry for entry in entries if entry.row.image_id in kept))

    def pictures(self) -> Iterator[tuple[str, str, Picture]]:
        """Yields id, why it is shown, and `Picture` of each."""
        for entry in self.entries:
            yield entry.row.image_id, SPACED if entry.spaced else RATED, entry.picture()


def shrink_labels(mask: np.ndarray) -> np.ndarray:
    """A mask with no side longer than 320 pixels; labels are picked, never mixed."""
    height, width = mask.shape
    factor = max(1.0, max(mask.shape) / _SIDE)
    rows, columns = (
        ((np.arange(max(1, round(side / factor))) + 0.5) * side / max(1, round(side / factor))).astype(int)
        for side in (height, width)
    )
    return mask[rows[:, None], columns]


def shrink_scores(scores: np.ndarray, class_ids: tuple[int, ...]) -> tuple[tuple[int, ...], np.ndarray]:
    """Scores averaged to no side longer than 64, as whole numbers; of many classes those of the strongest.

    Args:
        scores: float32 `(len(class_ids), height, width)` in [0, 1].
        class_ids: 0-based.

    Returns:
        `(class_ids, uint8 (classes, height, width))`.
    """
    height, width = scores.shape[1:]
    factor = max(1.0, max(height, width) / _SCORE_SIDE)
    size = max(1, round(width / factor)), max(1, round(height / factor))
    highest = [float(plane.max()) for plane in scores]
    rows = sorted(sorted(range(len(highest)), key=lambda row: -highest[row])[:_MOST_CLASSES])
    small = np.zeros((len(rows), size[1], size[0]), np.uint8)
    for place, row in enumerate(rows):
        plane = Image.fromarray(scores[row].astype(np.float32)).resize(size, Image.Resampling.BOX)
        small[place] = np.clip(np.round(np.asarray(plane) * 255), 0, 255)
    return tuple(class_ids[row] for row in rows), small


def _transparent_png(mask: np.ndarray) -> bytes:
    palette = voc_palette().copy()
    palette[-1] = 255  # of no class: white, as in the other pictures
    picture = Image.fromarray(mask)
    picture.putpalette(palette.tobytes())
    stream = BytesIO()
    picture.save(stream, "PNG", transparency=b"\0")
    return stream.getvalue()


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_text(text: str) -> bytes:
    return base64.b64decode(text, validate=True)

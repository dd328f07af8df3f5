"""A user's collection, listed: what is to become a record, before any image is opened."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wsss.common.constants import check_class_count


class Problem(NamedTuple):
    """One line of `errors.jsonl`.

    Attributes:
        id: the image, or the place in the table where it has none.
        stage: `table`, `image` or `mask`: where it was found.
        reason: a word, by which problems are counted.
        detail: what was found.
        remedy: what to do about it.
    """

    id: str
    stage: str
    reason: str
    detail: str
    remedy: str


class ListedImage(NamedTuple):
    """One image that is to become a record; JSON carries it to a worker.

    Attributes:
        image_id: str.
        split: str.
        labels: tuple of int, 0-based foreground classes.
        image: str, path of the image.
        mask: str, path of the mask; or bytes, its file; or a dict, COCO's shapes (see `coco.draw_mask`);
            or None.
    """

    image_id: str
    split: str
    labels: tuple[int, ...]
    image: str
    mask: Any = None


@dataclass
class Listing:
    """A user's images, labels and masks, listed before any image is opened.

    Raises:
        UserError: there are more classes than a mask can hold.

    Attributes:
        class_names: tuple of str.
        items: list of `ListedImage`; an id appears once in a split.
        has_masks: whether masks belong to the collection. An image without one gets a mask of 255.
        mask_colors: uint8 (numbers, 3), the colors of the masks' numbers where the collection lists them.
        problems: list of `Problem` that the listing found.
        notes: list of str, what the user may want to know besides.
    """

    class_names: tuple[str, ...]
    items: list[ListedImage]
    has_masks: bool
    mask_colors: Any = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_class_count(len(self.class_names), "The collection")

"""A user's collection, listed: what is to become a record, before any image is opened."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

from wsss.common.constants import check_class_count
from wsss.common.errors import UserError


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
        UserError: there are more classes than a mask can hold, or one is called `background`.

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
        background = next(filter(is_background, self.class_names), None)
        if background is not None:
            raise UserError(
                f"The collection has a class `{background}`; the background is number 0 of the masks and no "
                "class. Leave it out, or give it another name."
            )


def is_background(name: str) -> bool:
    """Whether a name of a class is that of the background."""
    return name.lower().strip("_") == "background"


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value of a JSON file is text that can name something: not blank, no NUL, no lone half."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and "\0" not in value
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )


def as_class_names(values: Iterable[Any], where: str) -> tuple[str, ...]:
    """The class names that a file of another program lists, each on one line.

    Args:
        values: what the file holds in their place.
        where: what the message names.

    Raises:
        UserError: there is none, one is no text, or two are the same.
    """
    values = list(values)
    strange = [value for value in values if not is_text(value)]
    if strange or not values:
        received = _shown(strange[0]) if strange else "none"
        raise UserError(f"{where} must hold the names of the classes as text. Received: {received}.")
    names = tuple(" ".join(value.split()) for value in values)
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{where} has the class `{repeated}` twice. Give each class its own name.")
    return names


def _shown(value):
    """A value for a message; of lists only the type, since YAML's may refer to each other without end."""
    return repr(value)[:60] if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"

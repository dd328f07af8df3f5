"""The numbers in a mask: 0 is the background, `k + 1` is class `k`, `IGNORE` a pixel of no class."""

from wsss.common.errors import UserError

IGNORE = 255
MAX_CLASSES = IGNORE - 1  # a mask has 8 bits a pixel


def check_class_count(count: int, owner: str) -> None:
    """Refuses more classes than a mask has numbers for.

    Args:
        count: number of foreground classes.
        owner: what has them, for the message.

    Raises:
        UserError: `count` exceeds `MAX_CLASSES`.
    """
    if count > MAX_CLASSES:
        raise UserError(
            f"{owner} has {count} classes; at most {MAX_CLASSES} are possible: a mask has 8 bits a pixel, "
            "and 255 is unknown. Merge or drop classes, or make several collections."
        )

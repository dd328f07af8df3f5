"""Tags of the images of a plain folder, from a table as `wsss.prepare` reads it."""

import logging
from collections.abc import Sequence

from wsss.common.errors import UserError
from wsss.data.sources.files import stem
from wsss.data.sources.folder import read_label_table

_logger = logging.getLogger(__name__)
_LISTED = 3  # most rows of one kind that are named


class ImageTags:
    """The classes of each image of a folder.

    Args:
        path: of the table, see `wsss.data.sources.label_table`: its ids are the images' paths in the folder,
            with or without suffix. A column `split` is not used.
        class_names: the classes of the model, in order; empty takes those of the table.

    Attributes:
        path: of the table.
        class_names: the foreground classes.

    Raises:
        UserError: the table cannot be used.
    """

    def __init__(self, path: str, class_names: Sequence[str] = ()):
        table = read_label_table(path, class_names or None)
        self.path, self.class_names = path, table.class_names
        self._labels: dict[str, tuple[int, ...] | None] = {}
        for row in table.rows:  # two rows that disagree are no tags
            known = self._labels.setdefault(row.image_id, row.labels)
            if known != row.labels:
                self._labels[row.image_id] = None
        self._unused = set(self._labels)
        refused = [f"{problem.id} ({problem.detail.rstrip('.')})" for problem in table.problems]
        self._warn("rows that cannot be used", refused)

    def of(self, name: str, image_id: str) -> tuple[int, ...] | None:
        """The classes of an image, 0-based, ascending; None without a row, or where two disagree.

        Args:
            name: path of the image in the folder.
            image_id: its id; `name` where another image differs in its suffix alone.
        """
        found = next((key for key in (name, image_id) if key in self._labels), None)
        if found is None:
            return None
        self._unused.discard(found)
        return self._labels[found]

    def check_use(self) -> None:
        """Warns of rows of which no image was asked for.

        Raises:
            UserError: that holds of all of them.
        """
        if len(self._unused) == len(self._labels):
            some = f", such as {stem(min(self._unused))}" if self._unused else ""
            raise UserError(f"`--labels` {self.path} has no row of an image in the folder{some}.")
        self._warn("rows of images that are not there", sorted(self._unused))

    def _warn(self, what, rows):
        if rows:
            _logger.warning("%s: %d %s, such as %s.", self.path, len(rows), what, ", ".join(rows[:_LISTED]))

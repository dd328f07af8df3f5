"""The table of image labels: which classes each image of a folder shows.

A CSV file (comma, semicolon or tab) with a header line: a column `id`, optionally `split`, and either one
column of 0 and 1 for each class, or one column `labels` of class names. A row of zeros, or without names, is
an image of pure background.
"""

import csv
import difflib
import io
import re
from dataclasses import dataclass
from typing import NamedTuple

from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.data.sources.base import Problem

_SPLIT = re.compile(r"\w+")
_SEPARATORS = re.compile(r"[;,|]")
_BACKGROUND = "background"


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        image_id: str, as in the table.
        split: str, or None where the table has no such column.
        labels: tuple of int, 0-based foreground classes, ascending.
        line: int, the line in the file.
    """

    image_id: str
    split: str | None
    labels: tuple
    line: int


@dataclass(frozen=True)
class LabelTable:
    """What a table of labels holds.

    Attributes:
        class_names: tuple of str.
        rows: list of `Row`, those that can be used.
        problems: list of `Problem`, one for each that cannot.
        ignored_columns: tuple of str.
    """

    class_names: tuple
    rows: list
    problems: list
    ignored_columns: tuple

    @property
    def has_splits(self):
        """Whether the table says which split an image belongs to."""
        return any(row.split is not None for row in self.rows)


def parse_class_names(text):
    """The foreground classes in a file of names, one a line.

    Lines may be numbered (`0 background`, `1 cow`, …, `255 void`), as the numbers in the masks are. The
    background, where it comes first, is left out, and so are number 255 and empty lines.

    Raises:
        UserError: no name, a name twice, or numbers that do not count up.
    """
    names = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [re.fullmatch(r"(\d+)[\s,:]+(.+)", name) for name in names]
    if names and all(numbered):
        numbered = [match for match in numbered if int(match[1]) != IGNORE]
        first = int(numbered[0][1]) if numbered else 0
        numbers = [int(match[1]) for match in numbered]
        if first > 1 or numbers != list(range(first, first + len(numbers))):
            raise UserError(f"The numbers of the classes must count up from 0 or 1. Received: {numbers}.")
        names = [match[2].strip() for match in numbered]
        if first == 0:  # number 0 in a mask is the background, whatever it is called
            names = [_BACKGROUND, *names[1:]]
    if names and names[0].lower() == _BACKGROUND:
        names = names[1:]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise UserError(
            "A file of classes must hold a name at least, and each once. "
            f"More than once: {', '.join(repeated) or '-'}."
        )
    return tuple(names)


def parse_label_table(text, class_names=None):
    """Reads a table of labels.

    Args:
        text: str, the CSV file.
        class_names: tuple of str, the classes in the order of the masks' numbers, or None to take them from
            the table: every column of 0 and 1, or every name in the column `labels`, sorted.

    Returns:
        `LabelTable`. Rows with an unknown class, a value that is neither 0 nor 1, a missing cell or an
        unusable split become problems.

    Raises:
        UserError: the table as a whole cannot be used.
    """
    header, rows = _read_rows(text)
    if "id" not in header:
        raise UserError(f"The table of labels needs a column `id`. Its columns are: {', '.join(header)}.")
    if not rows:
        raise UserError("The table of labels has no rows.")
    whole = [row for _, row in rows if len(row) == len(header)]
    if "labels" in header:
        column = header.index("labels")
        cells = [row[column] for row in whole]
        names, read = _names_reader(cells, class_names, column)
        used = {"id", "split", "labels"}
    else:
        names = class_names or _class_columns(header, whole)
        missing = [name for name in names if name not in header]
        if missing:
            near = difflib.get_close_matches(missing[0], header, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise UserError(
                f"The table of labels has no column for the class `{missing[0]}`, nor one `labels`.{hint}"
            )
        columns = [header.index(name) for name in names]
        read = _flags_reader(names, columns)
        used = {"id", "split", *names}
    if not names:
        raise UserError(
            "The table of labels names no class: it needs a column of 0 and 1 for each, or one `labels`. "
            f"Its columns are: {', '.join(header)}."
        )
    usable, problems = [], []
    for line, row in rows:
        result = _read_row(header, row, line, read)
        (problems if isinstance(result, Problem) else usable).append(result)
    ignored = tuple(name for name in header if name not in used)
    return LabelTable(tuple(names), usable, problems, ignored)


def _read_rows(text):
    first = text.lstrip("\ufeff").split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=delimiter)
    try:
        rows = [
            (reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise UserError(f"The table of labels is no CSV file: line {reader.line_num}: {error}.") from error
    if not rows:
        raise UserError("The table of labels is empty.")
    header = rows[0][1]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UserError(f"The table of labels has two columns of one name: {', '.join(repeated)}.")
    return header, rows[1:]


def _read_row(header, row, line, read):
    """The `Row`, or the `Problem` why there is none."""
    image_id = row[header.index("id")] if len(row) > header.index("id") else ""
    where = f"Line {line}"
    if not image_id:
        return Problem(f"line {line}", "table", "wrongly_labelled", f"{where} has no id.", "Give it one.")
    if len(row) != len(header):
        detail = f"{where} has {len(row)} cells, the header {len(header)}."
        return Problem(image_id, "table", "wrongly_labelled", detail, "Complete the row.")
    split = row[header.index("split")] if "split" in header else None
    if split is not None and not _SPLIT.fullmatch(split):
        detail = f"{where} has the split `{split}`."
        return Problem(
            image_id, "table", "wrong_split", detail, "Name it in letters, digits and underscores."
        )
    labels, fault = read(row)
    if fault:
        return Problem(
            image_id, "table", "wrongly_labelled", f"{where}: {fault}", "Correct the row, or the classes."
        )
    return Row(image_id, split, tuple(sorted(labels)), line)


def _flags_reader(names, columns):
    def read(row):
        labels = set()
        for label, column in enumerate(columns):
            flag = _flag(row[column])
            if flag is None:
                return None, f"`{names[label]}` is `{row[column]}`, neither 0 nor 1."
            if flag:
                labels.add(label)
        return labels, None

    return read


def _names_reader(cells, class_names, column):
    listed = any(_SEPARATORS.search(cell) for cell in cells)

    def split(cell):
        return [
            name.strip() for name in (_SEPARATORS.split(cell) if listed else cell.split()) if name.strip()
        ]

    if class_names is None:
        class_names = tuple(sorted({name for cell in cells for name in split(cell)} - {_BACKGROUND}))
    numbers = {name: number for number, name in enumerate(class_names)}

    def read(row):
        labels = set()
        for name in [row[column]] if row[column] in numbers else split(row[column]):
            words = [name] if name in numbers else name.split()  # names with and without blanks in one table
            for word in words if all(word in numbers for word in words) else [name]:
                if word not in numbers and word != _BACKGROUND:
                    near = difflib.get_close_matches(word, numbers, n=1)
                    return None, f"no class is called `{word}`" + (f" (`{near[0]}`?)." if near else ".")
                labels.add(numbers.get(word))
        return labels - {None}, None

    return class_names, read


def _class_columns(header, rows):
    """Columns that hold 0 and 1 in half of the rows at least, and a fraction (a measurement) in none."""
    names = []
    for column, name in enumerate(header):
        if name in ("id", "split"):
            continue
        cells = [row[column] for row in rows]
        fractions = any(_is_number(cell) and float(cell) % 1 for cell in cells)
        if not fractions and 2 * sum(_flag(cell) is not None for cell in cells) >= len(cells) > 0:
            names.append(name)
    return tuple(names)


def _flag(cell):
    """0 or 1, also when written `0.0` or `1.0`; None for anything else."""
    return {0.0: 0, 1.0: 1}.get(float(cell)) if _is_number(cell) else None


def _is_number(cell):
    return re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", cell) is not None

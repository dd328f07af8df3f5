"""The table of image labels: which classes each image of a folder shows.

A CSV file (comma, semicolon or tab) with a header line: a column `id`, optionally `split`, and either one
column of 0 and 1 for each class, or one column `labels` of class names. A row of zeros, or without names, is
an image of pure background.

What tables leave open is decided here, and said in the table's notes: a blank cell (also `nan`, `None`) among
0 and 1 is 0, and so is -1; names may be a Python or JSON list, or be separated by `;`, `|` or `,`, whichever
occurs first in this order; a blank separates names only where most words of the cells that have several occur
alone too. A column is used, or named as unused with the reason.
"""

import csv
import difflib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.data.sources.base import Problem

_SPLIT = re.compile(r"\w+")
_BACKGROUND = "background"
_RESERVED = ("id", "split", "labels")
_SEPARATORS = (";", "|", ",")
_BLANK = {"", "nan", "none", "null", "na", "n/a", "<na>"}
_FLAGS = {"true": 1, "false": 0, "yes": 1, "no": 0}
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")


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
    """The content of a table of labels.

    Attributes:
        class_names: the foreground classes.
        rows: those that can be used.
        problems: one for each row that cannot.
        unused_columns: name of the column -> why it is not used.
        notes: how the table was understood where it leaves that open.
    """

    class_names: tuple[str, ...]
    rows: list[Row]
    problems: list[Problem]
    unused_columns: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def has_splits(self) -> bool:
        """Whether the table says which split an image belongs to."""
        return any(row.split is not None for row in self.rows)


def parse_class_names(text: str) -> tuple[str, ...]:
    """The foreground classes in a file of names, one a line.

    Lines may be numbered (`0 background`, `1 cow`, …, `255 void`), as the numbers in the masks are. The
    background, where it comes first, is left out, and so are number 255 and empty lines.

    Raises:
        UserError: no name, a name twice, or numbers that do not count up.
    """
    names = [line.strip() for line in text.splitlines() if line.strip()]
    matches = [re.fullmatch(r"(\d+)[\s,:]+(.+)", name) for name in names]
    if names and all(matches):
        numbered = [match for match in matches if match and int(match[1]) != IGNORE]
        first = int(numbered[0][1]) if numbered else 0
        numbers = [int(match[1]) for match in numbered]
        if first > 1 or numbers != list(range(first, first + len(numbers))):
            raise UserError(f"The numbers of the classes must count up from 0 or 1. Received: {numbers}.")
        names = [match[2].strip() for match in numbered]
        if first == 0:  # number 0 in a mask is the background, whatever it is called
            names = [_BACKGROUND, *names[1:]]
    if names and names[0] == "__ignore__":  # labelme's 255
        names = names[1:]
    if names and names[0].lower().strip("_") == _BACKGROUND:
        names = names[1:]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise UserError(
            "A file of classes must hold a name at least, and each once. "
            f"More than once: {', '.join(repeated) or '-'}."
        )
    return tuple(names)


def parse_label_table(
    text: str, class_names: Sequence[str] | None = None, label_separator: str | None = None
) -> LabelTable:
    """Reads a table of labels.

    Args:
        text: the CSV file.
        class_names: the classes in the order of the masks' numbers, or None to take them from the table:
            every column of 0 and 1, or every name in the column `labels`, sorted.
        label_separator: what separates names in the column `labels`; None finds out.

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
    complete = [row for _, row in rows if len(row) == len(header)]
    if "labels" in header:
        reader = _read_names(header, complete, class_names, label_separator)
    elif label_separator is not None:
        raise UserError("`--label_separator` is for tables with a column `labels`; this one has none.")
    else:
        reader = _read_flags(header, complete, class_names)
    if not reader.class_names:
        raise UserError(
            "The table of labels names no class: it needs a column of 0 and 1 for each, or one `labels`. "
            f"Its columns are: {', '.join(header)}."
        )
    usable, problems = [], []
    for line, row in rows:
        result = _read_row(header, row, line, reader.read)
        if isinstance(result, Problem):
            problems.append(result)
        else:
            usable.append(result)
    return LabelTable(tuple(reader.class_names), usable, problems, reader.unused_columns, tuple(reader.notes))


class _Reader(NamedTuple):
    """How the labels of a row are read: `read(row)` gives a set of classes, or a str, what is wrong."""

    class_names: tuple[str, ...]
    read: Callable[[list[str]], set[int] | str]
    unused_columns: dict[str, str]
    notes: list[str]


def _read_rows(text):
    text = re.sub(r"\Asep=.\r?\n", "", text.lstrip("\ufeff"))  # spreadsheets' hint about the delimiter
    delimiter = max(",;\t", key=lambda candidate: _count_columns(text, candidate))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [
            (reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise UserError(f"The table of labels is no CSV file: line {reader.line_num}: {error}.") from error
    if not rows:
        raise UserError("The table of labels is empty.")
    header = [_clean(name) for name in rows[0][1]]
    header = [name.lower() if name.lower() in _RESERVED else name for name in header]
    count = Counter(map(_key, header))
    repeated = sorted({name for name in header if count[_key(name)] > 1})
    if repeated:
        raise UserError(f"The table of labels has two columns of one name: {', '.join(repeated)}.")
    return header, rows[1:]


def _count_columns(text, delimiter):
    """`(whether the header has a column id, its number of columns)`, quoted delimiters not counted."""
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return False, 0
    return "id" in (name.strip().lower() for name in header), len(header)


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
    labels = read(row)
    if isinstance(labels, str):
        detail, remedy = f"{where}: {labels}", "Correct the row, or the classes."
        return Problem(image_id, "table", "wrongly_labelled", detail, remedy)
    return Row(image_id, split, tuple(sorted(labels)), line)


def _read_flags(header, rows, class_names):
    """The `_Reader` of one column of 0 and 1 a class."""
    unused = {}
    if class_names is None:
        names = []
        for column, name in enumerate(header):
            if name not in _RESERVED:
                reason = _why_no_class(name, [row[column] for row in rows])
                if reason:
                    unused[name] = reason
                else:
                    names.append(name)
        columns = [header.index(name) for name in names]
    else:
        names, by_key = list(class_names), {_key(name): column for column, name in enumerate(header)}
        missing = [name for name in names if _key(name) not in by_key]
        if missing:
            near = difflib.get_close_matches(missing[0], header, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise UserError(
                f"The table of labels has no column for the class `{missing[0]}`, nor one `labels`.{hint}"
            )
        columns = [by_key[_key(name)] for name in names]
        others = set(header) - {header[column] for column in columns} - set(_RESERVED)
        unused = {name: "it is not among the classes given" for name in header if name in others}
    cells = Counter(_flag(row[column]) for row in rows for column in columns)
    notes = []
    if cells[None]:
        notes.append(f"blank cells in the columns of classes, counted as 0: {cells[None]}")
    if cells[-1]:
        notes.append(f"cells of -1 in the columns of classes, counted as 0: {cells[-1]}")
    has_zeros = cells[0] > 0

    def read(row):
        flags = [_flag(row[column]) for column in columns]
        for name, column, flag in zip(names, columns, flags):
            if flag not in (0, 1, -1, None):
                return f"`{name}` is `{row[column]}`, neither 0 nor 1."
        if has_zeros and all(flag is None for flag in flags):
            return "all of its cells are blank, although the table has zeros."
        return {label for label, flag in enumerate(flags) if flag == 1}

    return _Reader(tuple(names), read, unused, notes)


def _why_no_class(name, cells):
    """Why a column is no class, or None where it is one.

    A class holds 0 and 1 (or -1) in half of its cells that are not blank, and a fraction in none.
    """
    if name.lower() == _BACKGROUND:
        return "the background is no class: an image without classes is all background"
    flags = [_flag(cell) for cell in cells]
    filled = [(cell, flag) for cell, flag in zip(cells, flags) if flag is not None]
    if not filled:
        return "all of its cells are blank"
    if any(_is_number(cell) and float(cell) % 1 for cell, _ in filled):
        return "it holds fractions, as measurements do"
    if 2 * sum(flag in (0, 1, -1) for _, flag in filled) < len(filled):
        strange = next(cell for cell, flag in filled if flag not in (0, 1, -1))
        return f"most of its cells are neither 0 nor 1, such as `{strange[:40]}`"
    return None


def _flag(cell):
    """0, 1 or -1, also when written `1.0` or `True`; None for a blank; the text itself for anything else."""
    if cell.lower() in _BLANK:
        return None
    if _is_number(cell) and float(cell) in (0, 1, -1):
        return int(float(cell))
    return _FLAGS.get(cell.lower(), cell)


def _is_number(cell):
    return re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", cell) is not None


def _read_names(header, rows, class_names, label_separator):
    """The `_Reader` of one column of class names."""
    column = header.index("labels")
    cells = [row[column] for row in rows]
    known = {_key(name) for name in class_names or ()}
    separator, notes = _find_separator(cells, known, label_separator)
    found = [names for names in (_split_names(cell, separator, known) for cell in cells) if names is not None]
    spellings = Counter(name for names in found for name in names if _key(name) != _BACKGROUND)
    if class_names is None:
        class_names, merged = _merge_spellings(spellings)
    else:
        merged = {name for name in spellings if name not in class_names and _key(name) in known}
    if merged:
        notes.append(f"spellings of names counted as one class: {', '.join(sorted(merged))}")
    blank = sum(names == [] for names in found)
    if blank:
        notes.append(f"rows without a name in the column `labels`, counted as pure background: {blank}")
    numbers = {_key(name): number for number, name in enumerate(class_names)}

    def read(row):
        names = _split_names(row[column], separator, known)
        if names is None:
            return f"`{row[column][:60]}` is no list of names."
        labels = set()
        for name in names:
            words = [name] if _key(name) in numbers else name.split()  # a list of known names within a name
            for word in words if all(_key(word) in numbers for word in words) else [name]:
                if _key(word) in numbers:
                    labels.add(numbers[_key(word)])
                elif _key(word) != _BACKGROUND:
                    near = difflib.get_close_matches(word, class_names, n=1)
                    return f"no class is called `{word}`" + (f" (`{near[0]}`?)." if near else ".")
        return labels

    reason = "the column `labels` says which classes there are"
    unused = {name: reason for name in header if name not in _RESERVED}
    return _Reader(tuple(class_names), read, unused, notes)


def _find_separator(cells, known, given):
    """`(separator, notes)`: None where every cell is one name, a blank for any white space."""
    if given is not None:
        if not given:
            raise UserError("`--label_separator` must be at least one character, such as `;`.")
        return given if given.strip() else " ", []
    plain = [cell for cell in cells if not _is_list(cell) and _key(cell) not in known | _BLANK]
    occurring = [separator for separator in _SEPARATORS if any(separator in cell for cell in plain)]
    if occurring:
        notes = [f"names in the column `labels` are taken as separated by `{occurring[0]}`"]
        if occurring[1:]:
            others = " and ".join(f"`{other}`" for other in occurring[1:])
            notes[0] += f", and {others} as a part of names (`--label_separator` says otherwise)"
        return occurring[0], notes
    several = {word for cell in plain if len(cell.split()) > 1 for word in map(_key, cell.split())}
    if not several:
        return None, []
    alone = known or {_key(cell) for cell in plain}
    if 2 * len(several & alone) > len(several):
        return " ", ["names in the column `labels` are taken as separated by blanks"]
    example = next(" ".join(cell.split()) for cell in plain if len(cell.split()) > 1)
    return None, [
        f"blanks in the column `labels` are taken as a part of names, such as `{example[:60]}` "
        "(`--label_separator ' '` if they separate names)"
    ]


def _split_names(cell, separator, known):
    """The names in a cell of the column `labels`; None where it looks like a list and is none."""
    if _key(cell) in known:
        return [cell]
    if cell.lower() in _BLANK:
        return []
    if _is_list(cell):
        return _parse_list(cell[1:-1])
    parts = [cell] if separator is None else cell.split() if separator == " " else cell.split(separator)
    return [name for name in map(_clean, parts) if name.lower() not in _BLANK]


def _is_list(cell):
    return len(cell) > 1 and cell[0] + cell[-1] in ("[]", "()", "{}")


def _parse_list(content):
    """The names in a list as Python, NumPy or JSON print it, without its brackets; None if it is none."""
    if not _QUOTED.search(content):
        names = [_clean(name) for name in content.split(",")]
        return None if re.search(r"[][(){}:'\"]", content) else [name for name in names if name]
    if re.sub(r"[\s,]", "", _QUOTED.sub("", content)):
        return None
    return [_clean(re.sub(r"\\(.)", r"\1", one or other)) for one, other in _QUOTED.findall(content)]


def _merge_spellings(spellings):
    """`(class names, spellings that were counted as another)`: the most frequent spelling names the class."""
    by_key: dict[str, str] = {}
    for name, _ in sorted(spellings.items(), key=lambda pair: (-pair[1], pair[0])):
        by_key.setdefault(_key(name), name)
    return tuple(sorted(by_key.values())), spellings.keys() - set(by_key.values())


def _clean(name):
    """A name on one line, without blanks around it."""
    return " ".join(name.split())


def _key(name):
    """The normalized form of a name: without case, Unicode variants and line breaks."""
    return unicodedata.normalize("NFC", _clean(name)).casefold()

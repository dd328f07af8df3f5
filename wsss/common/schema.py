"""JSON files that are read back: each field is checked, and a damaged one is named in one line."""

import math
from typing import Any, TypeVar

from wsss.common.errors import UserError

T = TypeVar("T")
_REQUIRED: Any = object()
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
}


class Fields:
    """The fields of a JSON object.

    Args:
        value: parsed JSON.
        path: of the file, for the message.
        remedy: what to do about a damaged file.

    Raises:
        UserError: the value is no object.
    """

    def __init__(self, value: Any, path: str, remedy: str):
        self._path, self._remedy = path, remedy
        if not isinstance(value, dict):
            raise self.error("it must hold a JSON object")
        self._value = value

    def get(self, name: str, kind: type[T], default: T | None = _REQUIRED) -> T:
        """The field of a name, of a kind; where it is missing or null, the default if there is one.

        Raises:
            UserError: the field is missing without a default, or of another kind.
        """
        value = self._value.get(name)
        if value is None and default is not _REQUIRED:
            return default  # type: ignore[return-value]  # T may be optional
        if not _is_a(kind, value):
            raise self.error(f"`{name}` must be {_NAMES[kind]}")
        return value  # type: ignore[return-value]

    def names(self) -> list[str]:
        """The names of all fields."""
        return [*self._value]

    def texts(self, name: str, default: tuple[str, ...] = _REQUIRED) -> tuple[str, ...]:
        """The field of a name that is a list of texts."""
        if default is not _REQUIRED and self._value.get(name) is None:
            return default
        value = self.get(name, list)
        if not all(isinstance(each, str) for each in value):
            raise self.error(f"`{name}` must be a list of texts")
        return tuple(value)

    def numbers(self, name: str, default: tuple[float, ...] = _REQUIRED) -> tuple[float, ...]:
        """The field of a name that is a list of finite numbers."""
        if default is not _REQUIRED and self._value.get(name) is None:
            return default
        value = self.get(name, list)
        if not all(map(_is_finite, value)):
            raise self.error(f"`{name}` must be a list of finite numbers")
        return tuple(value)

    def object(self, name: str) -> "Fields":
        """The field of a name that is an object of its own."""
        return Fields(self.get(name, dict), self._path, self._remedy)

    def error(self, what: str) -> UserError:
        """The error of this file."""
        return UserError(f"{self._path} is damaged: {what}. {self._remedy}")


def _is_a(kind, value):
    """Whether a value of JSON is of a kind: truth values are no numbers."""
    if kind is float:
        return _is_finite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_finite(value):
    """Whether a value is a number that a float holds: JSON has NaN, Infinity and endless integers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False

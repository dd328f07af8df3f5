"""Command lines: options are declared once, as fields of a frozen dataclass, and checked where they enter.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(cli.Options):
        output: str = cli.option(cli.REQUIRED, "folder to write to")
        batch_size: int = cli.option(8, "images a step", kind=cli.positive_int)

`make_parser(Options, …)` makes the flags and their help, `Options(output="out")` is the same from Python:
both check ranges and choices, and a mistake is a `UserError` of one line.
"""

import argparse
import dataclasses
import difflib
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from wsss.common import compat
from wsss.common.errors import UserError

REQUIRED = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Number:
    """A kind of number: reads it from text, and knows its range.

    Args:
        type: `int` or `float`.
        allowed: whether a number lies in the range.
        rule: what the number must be, for messages.
    """

    type: type
    allowed: Callable[[Any], bool]
    rule: str

    def __call__(self, text: str):
        """The number that the text of a flag spells; an `argparse.ArgumentTypeError` names the rule."""
        try:
            value = self.type(text)
        except ValueError:
            value = None
        if value is None or not self.allowed(value):
            raise argparse.ArgumentTypeError(f"must be {self.rule}. Received: {text}")
        return value


positive_int = Number(int, lambda value: value >= 1, "a whole number, at least 1")
non_negative_int = Number(int, lambda value: value >= 0, "a whole number, at least 0")
positive_float = Number(float, lambda value: 0 < value < float("inf"), "a number above 0")
non_negative_float = Number(float, lambda value: 0 <= value < float("inf"), "a number, at least 0")
unit_interval = Number(float, lambda value: 0 <= value <= 1, "a number in [0, 1]")
open_unit_interval = Number(float, lambda value: 0 < value < 1, "a number in (0, 1)")
half_open_unit_interval = Number(float, lambda value: 0 < value <= 1, "a number in (0, 1]")


def option(
    default: Any,
    help: str,
    *,
    kind: Callable[[str], Any] | None = None,
    choices: tuple | None = None,
    metavar: str = "",
    group: str = "",
    positional: bool = False,
    deprecated: Mapping[str, Any] | None = None,
) -> Any:
    """A field of an `Options` class, which is a flag of the same name.

    Args:
        default: value without the flag, or `REQUIRED`.
        help: unit, range and meaning; the default is added unless the text names it (`default`).
        kind: text of the flag -> value; None: by the type of the field. A tuple is written with commas.
        choices: allowed values.
        metavar: how the value is shown in the help.
        group: begins a group of flags of this title.
        positional: whether it is an argument without a flag.
        deprecated: older spellings that still work, such as `{"--threshold": None}`, with the value that one
            stands for where it takes none, such as `{"--no_mirror": False}`, or a function of its text.
    """
    metadata = {
        "help": help,
        "kind": kind,
        "choices": choices,
        "metavar": metavar,
        "group": group,
        "positional": positional,
        "deprecated": dict(deprecated or {}),
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the options of a program: fields made by `option`, checked when an object is made."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        self.check()

    def check(self) -> None:
        """Raises a `UserError` for options that contradict one another."""


class Parser(argparse.ArgumentParser):
    """argparse's, except that what is wrong ends in a `UserError` instead of the whole usage, and that flags
    cannot be shortened: a flag that is added later never changes what a command means.
    """

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise unknown_flag(unknown[0], self)
        return namespace

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.rstrip('.')}. `--help` lists the flags.")


def make_parser(
    options_class: type[Options],
    *,
    prog: str,
    description: str | None,
    leave_out: tuple[str, ...] = (),
    inherit: tuple[str, ...] = (),
    inherit_from: str = "",
) -> Parser:
    """The parser of a program, one flag a field of `options_class`.

    Args:
        options_class: subclass of `Options`.
        prog, description: of the help.
        leave_out: names of fields that this program sets by itself.
        inherit: names of fields that have their value from elsewhere: flags without a default, absent from
            the namespace where they are not given.
        inherit_from: where that value is from, for the help.
    """
    parser = Parser(prog=prog, description=description)
    group: Any = parser
    for field in dataclasses.fields(options_class):
        if field.metadata["group"]:
            group = parser.add_argument_group(field.metadata["group"])
        if field.name in leave_out:
            continue
        _add_flag(group, field, inherit_from if field.name in inherit else "")
        for spelling, value in field.metadata["deprecated"].items():
            _add_deprecated(parser, field, spelling, value)
    return parser


def parse(options_class: type[Options], argv: list[str] | None = None, **parser_options) -> Any:
    """The options that a command line gives; see `make_parser`.

    Raises:
        UserError: an unknown flag, or a value out of range.
    """
    return options_class(**vars(make_parser(options_class, **parser_options).parse_args(argv)))


def unknown_flag(text: str, *parsers: argparse.ArgumentParser) -> UserError:
    """The `UserError` of an argument that none of the parsers knows; it names the flag that is nearest."""
    known = {flag for parser in parsers for flag in compat.flags_of(parser)} - {"-h", "--help"}
    flag = text.split("=")[0]
    near = difflib.get_close_matches(flag, sorted(known), n=1) if flag.startswith("-") else []
    remedy = f"Did you mean `{near[0]}`?" if near else "`--help` lists the flags."
    return UserError(f"Unknown argument `{text}`. {remedy}")


class _Deprecated(argparse.Action):
    """Stores what an older spelling means, and names the new one."""

    def __init__(self, option_strings, dest, *, value, flag, **options):
        self._takes_text = value is None or callable(value)
        super().__init__(option_strings, dest, nargs=None if self._takes_text else 0, **options)
        self._value, self._flag = value, flag

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values if self._takes_text else self._value)
        print(f"note: {option_string} is deprecated, write {self._flag}.", file=sys.stderr)


def _add_flag(parser, field, inherit_from=""):
    metadata, required = field.metadata, field.default is REQUIRED
    help_text = metadata["help"].replace("%", "%%")
    if inherit_from:
        help_text = f"{help_text.partition('; default:')[0]} (default: {inherit_from})"
    elif not required and "default" not in help_text:
        help_text += f" (default: {shown(field.default)})"
    arguments: dict[str, Any] = {"help": help_text}
    if inherit_from:
        arguments["default"] = argparse.SUPPRESS
    elif not metadata["positional"]:
        arguments["default"] = None if required else field.default
    if not metadata["positional"]:
        arguments["required"] = required
    if _plain_type(field) is bool:
        parser.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, **arguments)
        return
    arguments["type"] = _converter(field)
    arguments["choices"] = metadata["choices"]
    arguments["metavar"] = metadata["metavar"] or _metavar(field)
    parser.add_argument(field.name if metadata["positional"] else f"--{field.name}", **arguments)


def _metavar(field):
    """How the value of a flag is shown in the help; None leaves it to argparse, which lists the choices."""
    choices = field.metadata["choices"]
    if choices:
        return f"{{{' | '.join(choices)}}}" if any("," in str(choice) for choice in choices) else None
    return {int: "N", float: "X", str: "TEXT"}.get(_plain_type(field), "VALUE")


def _add_deprecated(parser, field, spelling, value):
    flag = f"--{'no-' if value is False else ''}{field.name}"
    arguments: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    if callable(value):
        arguments["type"] = value
    elif value is None:
        arguments |= {"type": _converter(field), "choices": field.metadata["choices"]}
    parser.add_argument(spelling, action=_Deprecated, value=value, flag=flag, **arguments)


def _converter(field):
    if field.metadata["kind"]:
        return field.metadata["kind"]
    if typing.get_origin(_without_none(field)) is tuple:
        return _several(field)
    return _plain_type(field)


def _several(field):
    """A converter for values written with commas; `none` where the field allows it."""
    optional, metavar = _may_be_none(field), field.metadata["metavar"]
    kinds = typing.get_args(_without_none(field))
    any_number = kinds[-1] is ...

    def convert(text):
        if text == "none" and (optional or any_number):
            return None if optional else ()
        parts = text.split(",") if text else []
        if not any_number and len(parts) != len(kinds):
            raise argparse.ArgumentTypeError(f"expected {metavar}, got {text!r}")
        try:
            return tuple(kinds[0](part) for part in parts)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {metavar}, got {text!r}") from None

    return convert


def _check(field, value):
    """Raises a `UserError` for a value that the flag would refuse; presets and Python calls end here."""
    kind, choices = field.metadata["kind"], field.metadata["choices"]
    if value is None and _may_be_none(field):
        return
    if choices and value not in choices and value != field.default:
        raise UserError(f"--{field.name} must be one of {', '.join(map(str, choices))}. Received: {value}.")
    if isinstance(kind, Number):
        right = isinstance(value, (int, kind.type)) and not isinstance(value, bool) and kind.allowed(value)
        if not right and value != field.default:
            raise UserError(f"--{field.name} must be {kind.rule}. Received: {value}.")
    elif kind and value != field.default:
        try:
            kind(shown(value))
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--{field.name} {error}.") from None


def _may_be_none(field):
    return type(None) in typing.get_args(field.type)


def _without_none(field):
    kinds = [kind for kind in typing.get_args(field.type) if kind is not type(None)]
    return kinds[0] if _may_be_none(field) else field.type


def _plain_type(field):
    kind = _without_none(field)
    return kind if isinstance(kind, type) else str


def shown(value: Any) -> str:
    """A default as a user would write it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)

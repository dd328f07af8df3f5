"""Command lines: values are checked where they enter, and a mistake is told in one line."""

import argparse
import difflib

from wsss.common.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse's, except that what is wrong ends in a `UserError` instead of the whole usage, and that flags
    cannot be shortened: a flag that is added later never changes what a command means.
    """

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args=None, namespace=None):
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise unknown_flag(unknown[0], self)
        return namespace

    def error(self, message):
        raise UserError(f"{message.rstrip('.')}. `--help` lists the flags.")


def unknown_flag(text, *parsers):
    """The `UserError` of an argument that none of the parsers knows; it names the flag that is nearest."""
    known = {flag for parser in parsers for flag in parser._option_string_actions} - {"-h", "--help"}
    flag = text.split("=")[0]
    near = difflib.get_close_matches(flag, sorted(known), n=1) if flag.startswith("-") else []
    remedy = f"Did you mean `{near[0]}`?" if near else "`--help` lists the flags."
    return UserError(f"Unknown argument `{text}`. {remedy}")


def number(kind, allowed, rule):
    """A `type` for argparse: a number of a kind that lies in a range.

    Args:
        kind: `int` or `float`.
        allowed: function of the number, whether it lies in the range.
        rule: what the number must be, for the error.

    Returns:
        Function of the flag's text that gives the number.
    """

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed(value):
            raise argparse.ArgumentTypeError(f"must be {rule}. Received: {text}")
        return value

    return parse


positive_int = number(int, lambda value: value >= 1, "a whole number, at least 1")
non_negative_int = number(int, lambda value: value >= 0, "a whole number, at least 0")
positive_float = number(float, lambda value: 0 < value < float("inf"), "a number above 0")
unit_interval = number(float, lambda value: 0 <= value <= 1, "a number in [0, 1]")
open_unit_interval = number(float, lambda value: 0 < value < 1, "a number in (0, 1)")

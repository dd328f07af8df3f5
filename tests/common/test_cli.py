"""Options declared once: the same checks on a command line and from Python, older spellings, help."""

import dataclasses
import importlib

import pytest

from wsss.common import cli
from wsss.common.errors import UserError

EVALUATE = ["--predictions", "a", "--truth", "b"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example(cli.Options):
    """Options of each kind."""

    output: str = cli.option(cli.REQUIRED, "folder", group="where")
    rate: float = cli.option(0.5, "a fraction", kind=cli.unit_interval, deprecated={"--old_rate": None})
    size: tuple[int, int] | None = cli.option((3, 4), "two numbers", metavar="LOW,HIGH")
    names: tuple[str, ...] = cli.option((), "names", metavar="A,B")
    mirror: bool = cli.option(True, "mirror too", deprecated={"--no_mirror": False})
    kind: str = cli.option("png", "format", choices=("png", "npz"))
    steps: int | None = cli.option(None, "steps; default: as published", kind=cli.positive_int)
    stages: str = cli.option("none", "stages", choices=("none", "walk,crf"))

    def check(self):
        if self.kind == "npz" and not self.mirror:
            raise UserError("npz needs a mirror.")


def parse(*argv):
    return cli.parse(Example, ["--output", "out", *argv], prog="example", description=None)


def test_flags_have_the_names_and_types_of_the_fields():
    options = parse("--rate", "1", "--size", "5,6", "--names", "a,b", "--no-mirror", "--steps", "7")
    assert options == Example(output="out", rate=1.0, size=(5, 6), names=("a", "b"), mirror=False, steps=7)
    assert parse() == Example(output="out")
    assert parse("--size", "none", "--names", "none") == Example(output="out", size=None)


@pytest.mark.parametrize(
    ("flags", "values", "message"),
    [
        (("--rate", "2"), {"rate": 2.0}, r"\[0, 1\]. Received: 2"),
        (("--rate", "nan"), {"rate": float("nan")}, r"\[0, 1\]. Received: nan"),
        (("--steps", "0"), {"steps": 0}, "at least 1. Received: 0"),
        (("--kind", "gif"), {"kind": "gif"}, "png.*npz"),
        (("--kind", "npz", "--no-mirror"), {"kind": "npz", "mirror": False}, "npz needs a mirror"),
    ],
)
def test_flags_and_python_refuse_the_same_values(flags, values, message):
    with pytest.raises(UserError, match=message):
        parse(*flags)
    with pytest.raises(UserError, match=message):
        Example(output="out", **values)


def test_a_missing_required_flag_is_named():
    with pytest.raises(UserError, match="--output"):
        cli.parse(Example, [], prog="example", description=None)


def test_older_spellings_work_and_say_the_new_one(capsys):
    assert parse("--old_rate", "0.25", "--no_mirror") == Example(output="out", rate=0.25, mirror=False)
    assert capsys.readouterr().err.splitlines() == [
        "note: --old_rate is deprecated, write --rate.",
        "note: --no_mirror is deprecated, write --no-mirror.",
    ]


def test_help_shows_defaults_and_hides_older_spellings():
    text = cli.make_parser(Example, prog="example", description=None).format_help()
    assert "(default: 0.5)" in text
    assert "(default: 3,4)" in text
    assert "old_rate" not in text
    assert "no_mirror" not in text


def test_help_shows_what_kind_of_value_a_flag_takes():
    text = cli.make_parser(Example, prog="example", description=None).format_help()
    for shown in ("--rate X", "--steps N", "--size LOW,HIGH", "--kind {png,npz}"):
        assert shown in text
    assert "{none | walk,crf}" in text  # a choice with a comma is not taken for two


def parser_of(name):
    """The parser of a program; where its options are many they have a module of their own."""
    modules = {"train": "wsss.training.options", "pseudo_labels": "wsss.pipeline.options"}
    return importlib.import_module(modules.get(name, f"wsss.{name}")).make_parser()


@pytest.mark.parametrize("name", ["prepare", "train", "pseudo_labels", "predict", "evaluate", "demo"])
def test_the_help_of_each_program_lists_its_flags(name):
    text = parser_of(name).format_help()
    assert text.count("--") > 5
    assert "SUPPRESS" not in text


@pytest.mark.parametrize(
    ("name", "required", "flags", "field", "value"),
    [
        (
            "evaluate",
            ["--predictions", "a", "--truth", "b"],
            ["--threshold", "0.3"],
            "background_threshold",
            0.3,
        ),
        (
            "evaluate",
            ["--predictions", "a", "--truth", "b"],
            ["--undecided", "skip"],
            "ignored_prediction",
            "skip",
        ),
        ("evaluate", ["--predictions", "a", "--truth", "b"], ["--leave_out_missing"], "skip_missing", True),
        ("pseudo_labels", [], ["--no_mirror"], "mirror", False),
        ("demo", [], ["--images", "50"], "num_images", 50),
    ],
)
def test_flags_of_0_1_0_keep_their_meaning(name, required, flags, field, value):
    assert getattr(parser_of(name).parse_args([*required, *flags]), field) == value

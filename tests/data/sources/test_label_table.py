"""`wsss.data.sources.label_table`: classes and tables of labels."""

import pytest

from wsss.common.errors import UserError
from wsss.data.sources.label_table import parse_class_names, parse_label_table


def labels(table):
    return {row.image_id: row.labels for row in table.rows}


def faults(table):
    return [(problem.id, problem.reason) for problem in table.problems]


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\n",
        "background\ncat\n\ndog",
        "0 background\n1 cat\n2 dog\n255 void\n",
        "1: cat\n2: dog\n",
        "0,nothing\n1,cat\n2,dog",
    ],
)
def test_class_names_are_read_numbered_or_not(text):
    assert parse_class_names(text) == ("cat", "dog")


@pytest.mark.parametrize("text", ["", "background", "cat\ncat", "1 cat\n3 dog", "5 cat\n6 dog", "255 void"])
def test_a_useless_file_of_classes_is_refused(text):
    with pytest.raises(UserError):
        parse_class_names(text)


def test_columns_of_0_and_1_are_the_classes_and_measurements_are_not():
    table = parse_label_table(
        "id,split,void_fraction,cat,dog\na,train,0.0,1,0\nb,val,0.25,0,0\nc,val,1,1,1.0\n"
    )
    assert table.class_names == ("cat", "dog")
    assert labels(table) == {"a": (0,), "b": (), "c": (0, 1)}
    assert [row.split for row in table.rows] == ["train", "val", "val"]
    assert table.ignored_columns == ("void_fraction",)
    assert table.problems == []
    assert table.has_splits


def test_given_classes_choose_the_columns_and_their_order():
    table = parse_label_table("id,extra,cat,dog\na,1,1,0\n", ("dog", "cat"))
    assert labels(table) == {"a": (1,)}
    assert table.ignored_columns == ("extra",)
    assert not table.has_splits


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('"cat;dog"', (0, 1)),
        ('"cat, dog"', (0, 1)),
        ("dog|cat", (0, 1)),
        ("cat dog", (0, 1)),
        ("", ()),
        ("dog", (1,)),
    ],
)
def test_names_in_one_column_may_be_separated_in_any_usual_way(cell, expected):
    table = parse_label_table(f"id,labels\na,{cell}\n", ("cat", "dog"))
    assert labels(table) == {"a": expected}


def test_names_with_blanks_are_whole_where_they_are_known_or_separated():
    known = parse_label_table("id,labels\na,potted plant\nb,cat;potted plant\n", ("cat", "potted plant"))
    assert labels(known) == {"a": (1,), "b": (0, 1)}
    found = parse_label_table("id,labels\na,potted plant;cat\nb,cat\n")
    assert found.class_names == ("cat", "potted plant")


def test_names_of_classes_are_collected_and_sorted():
    table = parse_label_table("id,labels\na,dog cat\nb,\nc,ant background\n")
    assert table.class_names == ("ant", "cat", "dog")
    assert labels(table) == {"a": (1, 2), "b": (), "c": (0,)}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_any_usual_delimiter_and_line_end_will_do(delimiter):
    text = "\ufeff" + "\r\n".join(
        delimiter.join(row) for row in (("id", "cat"), ("a", "1"), ("b", " 0 "), ("",))
    )
    assert labels(parse_label_table(text)) == {"a": (0,), "b": ()}


def test_rows_that_cannot_be_used_become_problems():
    rows = [
        "ok,train,1,0",
        "two,train,2,0",
        "blank,train,,0",
        "short,train,1",
        ",train,0,0",
        "odd,my split,0,1",
    ]
    table = parse_label_table("\n".join(["id,split,cat,dog", *rows, "fine,val,0,1", "good,val,0,0"]))
    assert list(labels(table)) == ["ok", "fine", "good"]
    assert faults(table) == [
        ("two", "wrongly_labelled"),
        ("blank", "wrongly_labelled"),
        ("short", "wrongly_labelled"),
        ("line 6", "wrongly_labelled"),
        ("odd", "wrong_split"),
    ]
    assert "`cat` is `2`" in table.problems[0].detail


def test_an_unknown_class_is_a_problem_that_names_the_likely_one():
    table = parse_label_table("id,labels\na,cat\nb,cat;dgo\n", ("cat", "dog"))
    assert faults(table) == [("b", "wrongly_labelled")]
    assert "`dgo`" in table.problems[0].detail
    assert "`dog`" in table.problems[0].detail


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("", None, "empty"),
        ("id,cat\n", None, "no rows"),
        ("name,cat\na,1\n", None, "`id`"),
        ("id,cat,cat\na,1,1\n", None, "two columns"),
        ("id,note\na,hello\n", None, "names no class"),
        ("id,cta\na,1\n", ("cat",), "Did you mean `cta`"),
    ],
)
def test_a_table_that_is_useless_as_a_whole_is_refused(text, classes, message):
    with pytest.raises(UserError, match=message):
        parse_label_table(text, classes)

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
    assert table.unused_columns == {"void_fraction": "it holds fractions, as measurements do"}
    assert table.problems == []
    assert table.has_splits


def test_given_classes_choose_the_columns_and_their_order():
    table = parse_label_table("id,extra,cat,dog\na,1,1,0\n", ("dog", "cat"))
    assert labels(table) == {"a": (1,)}
    assert table.unused_columns == {"extra": "it is not among the classes given"}
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
    table = parse_label_table("id,labels\na,dog cat\nb,\nc,ant Background\nd,dog\ne,ant\nf,cat\n")
    assert table.class_names == ("ant", "cat", "dog")
    assert labels(table) == {"a": (1, 2), "b": (), "c": (0,), "d": (2,), "e": (0,), "f": (1,)}
    assert "separated by blanks" in table.notes[0]


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
        "blank,train,,",
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


@pytest.mark.parametrize(
    "cell",
    [
        "\"['traffic light', 'cow']\"",
        '"[""cow"", ""traffic light""]"',
        "\"['traffic light' 'cow']\"",
        "\"('cow', 'traffic light')\"",
        '"[cow, traffic light]"',
        "\"{'cow', 'traffic light'}\"",
    ],
)
def test_lists_as_python_numpy_and_json_print_them_are_read(cell):
    table = parse_label_table(f"id,labels\na,{cell}\nb,[]\nc,\"['cow']\"\n")
    assert table.class_names == ("cow", "traffic light")
    assert labels(table) == {"a": (0, 1), "b": (), "c": (0,)}


@pytest.mark.parametrize("cell", ["\"['cow': 1]\"", '"[\'cow"', "\"['cow'] and ['car']\"", "\"{'cow': 1}\""])
def test_what_is_no_list_is_a_problem_of_its_row(cell):
    table = parse_label_table(f"id,labels\na,{cell}\nb,car\n", ("cow", "car"))
    assert faults(table) == [("a", "wrongly_labelled")]


def test_blanks_belong_to_names_where_nothing_shows_that_they_separate():
    text = "id,labels\na,traffic light\nb,fire truck\nc,traffic cone\nd,cow\n"
    table = parse_label_table(text)
    assert table.class_names == ("cow", "fire truck", "traffic cone", "traffic light")
    assert "part of names" in table.notes[0]
    assert "--label_separator" in table.notes[0]
    separated = parse_label_table(text, label_separator=" ")
    assert separated.class_names == ("cone", "cow", "fire", "light", "traffic", "truck")


def test_a_separator_may_be_given_and_the_one_that_was_taken_is_noted():
    table = parse_label_table('id,labels\na,"car, red;cow"\nb,"car, red"\n')
    assert table.class_names == ("car, red", "cow")
    assert "`;`, and `,` as a part of names" in table.notes[0]
    table = parse_label_table("id,labels\na,car/cow\nb,dog\n", label_separator="/")
    assert labels(table) == {"a": (0, 1), "b": (2,)}
    with pytest.raises(UserError, match="label_separator"):
        parse_label_table("id,cat\na,1\n", label_separator=";")


def test_semicolons_delimit_although_quoted_names_hold_commas():
    table = parse_label_table('id;"car, red";"cow, brown, old"\na;1;0\nb;0;1\n')
    assert table.class_names == ("car, red", "cow, brown, old")
    assert labels(table) == {"a": (0,), "b": (1,)}


def test_blank_and_minus_one_among_flags_are_zero_and_counted():
    table = parse_label_table("id,cow,car,dog\na,1,,\nb,1,1,NaN\nc,1,None,-1\nd,,,1\n")
    assert table.class_names == ("cow", "car", "dog")
    assert labels(table) == {"a": (0,), "b": (0, 1), "c": (0,), "d": (2,)}
    assert table.unused_columns == {}
    assert table.notes == (
        "blank cells in the columns of classes, counted as 0: 6",
        "cells of -1 in the columns of classes, counted as 0: 1",
    )


def test_true_and_false_are_flags_in_any_case():
    table = parse_label_table("id,cow,car\na,True,FALSE\nb,false,true\n")
    assert labels(table) == {"a": (0,), "b": (1,)}


def test_every_column_is_used_or_named_with_the_reason():
    rows = "a,1,0,7,note,,0.5\nb,0,1,9,text,,1\nc,0,0,8,more,,0\n"
    table = parse_label_table("id,background,cow,count,remark,empty,area\n" + rows)
    assert table.class_names == ("cow",)
    assert {name: reason.split()[0] for name, reason in table.unused_columns.items()} == {
        "background": "the",
        "count": "most",
        "remark": "most",
        "empty": "all",
        "area": "it",
    }


def test_missing_values_in_the_column_of_names_are_no_classes():
    table = parse_label_table("id,labels\na,cow\nb,nan\nc,None\nd,NULL\ne,\n")
    assert table.class_names == ("cow",)
    assert labels(table) == {"a": (0,), "b": (), "c": (), "d": (), "e": ()}
    assert "pure background: 4" in table.notes[-1]
    assert parse_label_table("id,labels\na,none\n", ("none",)).rows[0].labels == (0,)


def test_spellings_that_differ_in_case_or_unicode_form_are_one_class():
    table = parse_label_table("id,labels\na,Cow\nb,cow\nc,cow\nd,caf\u00e9\ne,cafe\u0301\n")
    assert len(table.class_names) == 2
    assert [row.labels for row in table.rows] == [(1,), (1,), (1,), (0,), (0,)]
    assert "Cow" in table.notes[0]
    assert labels(parse_label_table("id,labels\na,COW\n", ("cow",))) == {"a": (0,)}
    assert labels(parse_label_table("ID,COW\na,1\n", ("cow",))) == {"a": (0,)}
    with pytest.raises(UserError, match="two columns"):
        parse_label_table("id,Cow,cow\na,1,0\n")


def test_a_line_break_in_a_name_becomes_a_blank():
    assert parse_label_table('id,"traffic\nlight",cow\na,1,0\n').class_names == ("traffic light", "cow")
    assert parse_label_table('id,labels\na,"traffic\r\nlight"\n').class_names == ("traffic light",)


def test_a_note_is_one_line_whatever_a_name_holds():
    table = parse_label_table('id,labels\na,"fire\ntruck"\nb,cat\n')
    assert "such as `fire truck`" in table.notes[0]
    assert "\n" not in table.notes[0]

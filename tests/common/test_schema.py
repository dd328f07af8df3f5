"""Each field of a JSON file is checked, and a damaged one is named in one line."""

import json

import pytest

from wsss.common.errors import UserError
from wsss.common.schema import Fields


@pytest.mark.parametrize(
    ("kind", "value", "accepted"),
    [
        (int, "1", True),
        (int, "1.5", False),
        (int, "true", False),
        (float, "1", True),
        (float, "-1.5e3", True),
        (float, "NaN", False),
        (float, "-Infinity", False),
        (float, "1e999", False),
        (float, "1" + 400 * "0", False),  # a whole number that no float holds
        (float, "false", False),
        (str, "1", False),
        (dict, "[]", False),
    ],
)
def test_a_field_of_another_kind_is_refused(kind, value, accepted):
    value = json.loads(value)
    fields = Fields({"name": value}, "a.json", "Remove it.")
    if accepted:
        assert fields.get("name", kind) == value
    else:
        with pytest.raises(UserError, match=r"^a\.json is damaged: `name` must be .* Remove it\.$"):
            fields.get("name", kind)


@pytest.mark.parametrize("value", ["[1, NaN]", "[Infinity]", "[true]", '["1"]', "3"])
def test_a_list_of_other_values_than_finite_numbers_is_refused(value):
    fields = Fields({"name": json.loads(value)}, "a.json", "Remove it.")
    with pytest.raises(UserError, match=r"^a\.json is damaged: `name` must be a list"):
        fields.numbers("name")


@pytest.mark.parametrize("present", [{}, {"other": None}])
def test_a_missing_field_is_its_default_or_an_error(present):
    fields = Fields(present, "a.json", "Remove it.")
    assert fields.get("other", int, None) is None
    assert fields.numbers("other", (1.0,)) == (1.0,)
    assert fields.texts("other", ()) == ()
    with pytest.raises(UserError, match="`other` must be a whole number"):
        fields.get("other", int)

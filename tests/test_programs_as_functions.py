"""The programs from Python: few required arguments, errors are exceptions, results are objects."""

import pytest

import wsss
from tests.training.small_runs import FLAGS, draw_collection
from wsss.common.errors import UserError

TINY = {**FLAGS, "long_side": (32, 40), "epochs": 1, "new_layer_multiplier": 10.0}


@pytest.mark.slow
def test_from_a_collection_to_masks_of_new_images(tmp_path):
    data = draw_collection(tmp_path / "data")
    run = wsss.train_model(data, str(tmp_path / "run"), **TINY)
    assert wsss.load_model(run.model).classes == 2
    again = wsss.train_model(data, str(tmp_path / "run"), **TINY)
    assert again.is_finished()

    result = wsss.label_collection(str(tmp_path / "run"), output=str(tmp_path / "labels"), scales=(1.0,))
    assert (result.labeled, result.failed) == (16, 0)
    assert 0 <= result.miou <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"data": "nowhere", "epochs": 0}, "--epochs must be a whole number, at least 1"),
        ({"preset": "sem"}, "--preset"),
    ],
)
def test_a_mistake_is_an_exception_with_the_message_of_the_program(values, message):
    with pytest.raises(UserError, match=message):
        wsss.train_model(**values)


def test_options_of_masks_are_checked_as_on_the_command_line(tmp_path):
    with pytest.raises(UserError, match=r"--background_threshold .*\[0, 1\]"):
        wsss.label_collection(str(tmp_path), background_threshold=2.0)


@pytest.mark.slow
def test_labels_of_a_plain_classifier_come_from_its_only_map(tmp_path):
    data = draw_collection(tmp_path / "data")
    run = wsss.train_model(data, str(tmp_path / "run"), **{**TINY, "model": "classifier"})
    result = wsss.label_collection(run.path, output=str(tmp_path / "labels"), scales=(1.0,))
    assert (result.labeled, result.failed) == (16, 0)
    with pytest.raises(UserError, match=r"no `refined_cam`\. Pass `--cam cam`"):
        wsss.label_collection(run.model, data, str(tmp_path / "others"), cam="refined_cam")

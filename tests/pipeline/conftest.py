"""A collection, an untrained model, and the labels that one undisturbed run makes with them."""

import pytest

from tests.pseudo_label_cases import label, make_records, write_collection, write_run


@pytest.fixture(scope="session")
def records():
    return make_records()


@pytest.fixture(scope="session")
def data(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("data")
    write_collection(str(folder), records)
    return str(folder)


@pytest.fixture(scope="session")
def run(tmp_path_factory, data):
    return str(write_run(tmp_path_factory.mktemp("run"), data))


@pytest.fixture(scope="session")
def labels(tmp_path_factory, run):
    """The output of one undisturbed run."""
    output = tmp_path_factory.mktemp("output") / "labels"
    assert label(output, run) == 0
    return output

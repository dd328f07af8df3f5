"""Choice of the strategy; that replicas give the same numbers stands in `tests/test_distribution.py`."""

import json

import pytest
import tensorflow as tf

from wsss.common.errors import UserError
from wsss.training.strategies import is_chief, make_strategy


def test_without_a_tpu_the_tpu_strategy_is_one_clear_error(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(UserError, match="found no TPU"):
        make_strategy("tpu")


@pytest.mark.parametrize(("value", "message"), [("", "TF_CONFIG"), ("{", "not JSON"), ("{}", "cluster")])
def test_workers_without_a_cluster_are_one_clear_error(monkeypatch, value, message):
    monkeypatch.setenv("TF_CONFIG", value)
    with pytest.raises(UserError, match=message):
        make_strategy("multi_worker")


def test_one_process_is_its_own_chief():
    assert is_chief(make_strategy("default"))
    assert is_chief(make_strategy("mirrored"))


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "expected"),
    [
        ({"worker": ["a:1", "b:1"]}, "worker", 0, True),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, False),
        ({"chief": ["a:1"], "worker": ["b:1"]}, "chief", 0, True),
        ({"chief": ["a:1"], "worker": ["b:1"]}, "worker", 0, False),
    ],
)
def test_the_chief_of_a_cluster_is_the_one_that_tensorflow_names(monkeypatch, cluster, kind, index, expected):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))

    class Strategy:
        cluster_resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()

    assert is_chief(Strategy()) is expected

"""Replicas share a batch: two give the losses and the weights of one."""

import json
import os
import socket

import numpy as np
import pytest

from tests.training.small_runs import (
    assert_equal_weights,
    command_line,
    draw_collection,
    finish,
    run,
    start,
    weights,
)
from wsss.training.callbacks import read_history

pytestmark = pytest.mark.slow

# What a sum in another order changes, after eight steps.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_collection(tmp_path_factory.mktemp("data"))


def assert_equal_runs(first, second):
    rows = [read_history(os.path.join(path, "history.csv")) for path in (first, second)]
    for one, other in zip(*rows, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if "threshold" not in name:  # the best of many that are as good
                np.testing.assert_allclose(float(one[name]), float(other[name]), rtol=2e-3, err_msg=name)
    assert_equal_weights(first, second, **CLOSE)


@pytest.fixture(scope="module")
def single(data, tmp_path_factory):
    """A run on one device."""
    output = str(tmp_path_factory.mktemp("single") / "run")
    run(command_line(data, output))
    return output


def test_two_replicas_under_mirrored_strategy_equal_one(single, data, tmp_path):
    """The program; `tests/models/test_contract.py` has the same of every model."""
    mirrored = str(tmp_path / "mirrored")
    run(command_line(data, mirrored, strategy="mirrored", cpu_replicas=2))
    assert_equal_runs(single, mirrored)


def test_two_processes_under_multi_worker_strategy_equal_one(single, data, tmp_path):
    output = str(tmp_path / "workers")
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        arguments = command_line(data, output, strategy="multi_worker")
        processes.append(start(arguments, environment={"TF_CONFIG": json.dumps(task)}))
    for process in processes:
        finish(process)
    assert_equal_runs(single, output)


def test_a_batch_that_the_replicas_cannot_share_is_a_users_error(data, tmp_path):
    arguments = command_line(data, tmp_path / "run", batch_size=3, strategy="mirrored", cpu_replicas=2)
    _, errors = finish(start(arguments), expected_code=2)
    assert "--batch_size must be a multiple of the number of replicas, 2" in errors


def test_weights_change_while_training(single, data, tmp_path):
    """Without this the comparisons above could compare two runs that did nothing."""
    run(command_line(data, tmp_path / "other", seed=1))
    differ = [
        not np.allclose(one, other)
        for one, other in zip(weights(single), weights(str(tmp_path / "other")), strict=True)
    ]
    assert any(differ)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports

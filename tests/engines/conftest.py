"""Where the engines lie that `tests/engines/setup.sh` has built, and what is labeled on them."""

import os
import shutil
from pathlib import Path

import pytest

from tests.engines.flink import flink_cluster
from tests.pseudo_label_cases import make_records, write_collection, write_run
from wsss.common import io


@pytest.fixture(scope="session")
def prism():
    """Beam's flags for a run on Prism, its workers in this process; the test skips where it is missing."""
    folder = os.environ.get("WSSS_ENGINES")
    path = Path(folder) / "prism" if folder else Path(shutil.which("prism") or "prism")
    if not path.is_file():
        pytest.skip("no Prism: run tests/engines/setup.sh FOLDER and set WSSS_ENGINES=FOLDER")
    return ("--runner=PrismRunner", f"--prism_location={path}", "--environment_type=LOOPBACK")


@pytest.fixture(scope="module")
def flink(tmp_path_factory):
    """A `FlinkCluster`; the test skips where its jars are missing."""
    jars = Path(os.environ.get("WSSS_ENGINES", "")).absolute() / "flink"
    if not (jars / "job_server.jar").is_file():
        pytest.skip("no Flink: run tests/engines/setup.sh FOLDER and set WSSS_ENGINES=FOLDER")
    with flink_cluster(jars, tmp_path_factory.mktemp("flink")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Images, tags, a collection of them and a model."""
    folder, records = tmp_path_factory.mktemp("inputs"), make_records()
    for record in records:
        io.write_bytes(str(folder / "images" / f"{record.image_id}.png"), record.image_bytes)
    rows = ["id,cat,dog,cow"]
    rows += [f"{each.image_id},{','.join(str(int(k in each.labels)) for k in range(3))}" for each in records]
    (folder / "tags.csv").write_text("\n".join(rows))
    write_collection(str(folder / "collection"), records)
    (folder / "run").mkdir()
    write_run(folder / "run", folder / "collection")
    return folder

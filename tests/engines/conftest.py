"""Where the engines lie that `tests/engines/setup.sh` has built."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prism():
    """Beam's flags for a run on Prism, its workers in this process; the test skips where it is missing."""
    folder = os.environ.get("WSSS_ENGINES")
    path = Path(folder) / "prism" if folder else Path(shutil.which("prism") or "prism")
    if not path.is_file():
        pytest.skip("no Prism: run tests/engines/setup.sh FOLDER and set WSSS_ENGINES=FOLDER")
    return ("--runner=PrismRunner", f"--prism_location={path}", "--environment_type=LOOPBACK")

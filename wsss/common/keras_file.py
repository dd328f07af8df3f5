"""`.keras` files whose bytes depend on the model alone.

Keras writes the time into them, and numbers objects that a model uses twice by their addresses in memory. The
same weights would so give another file each time, and all that was made with the model would count as stale.
"""

import json
import os
import re
import shutil
import tempfile
import zipfile
from typing import Any

from wsss.common import io

_SHARED_OBJECT = re.compile(r'(?<="shared_object_id": )\d+')


def save_model(model: Any, path: str) -> None:
    """Saves a Keras model as a `.keras` file, local or remote: the same bytes from the same model.

    Args:
        model: `keras.Model`.
        path: of the file, which appears atomically.
    """
    with tempfile.TemporaryDirectory() as folder:
        written, reproducible = (os.path.join(folder, name) for name in ("written.keras", "model.keras"))
        model.save(written)
        _copy_reproducibly(written, reproducible)
        os.remove(written)
        io.copy(reproducible, path)


def _copy_reproducibly(source, destination):
    """Copies a `.keras` file: without the time, and shared objects numbered in the order of the text."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(destination, "w") as copy:
        for name in sorted(archive.namelist()):
            entry = zipfile.ZipInfo(name)  # of 1980
            if name == "config.json":
                copy.writestr(entry, _renumber(archive.read(name).decode()))
            elif name == "metadata.json":
                metadata = json.loads(archive.read(name))
                metadata.pop("date_saved", None)
                copy.writestr(entry, json.dumps(metadata))
            else:
                with archive.open(name) as reader, copy.open(entry, "w", force_zip64=True) as writer:
                    shutil.copyfileobj(reader, writer, 1 << 20)


def _renumber(config: str) -> str:
    """The text of a configuration with shared objects numbered from 1."""
    numbers: dict[str, str] = {}
    return _SHARED_OBJECT.sub(lambda found: numbers.setdefault(found[0], str(len(numbers) + 1)), config)

"""`wsss`: weakly supervised semantic segmentation, from image tags to masks.

The public names are imported on first use, so that a worker that only refines masks
never pays for importing TensorFlow.
"""

import importlib

_PUBLIC = {"SEAM": "wsss.models.seam", "Pixel2Prototype": "wsss.models.pixel2prototype"}

__version__ = "0.1.0"
__all__ = ["SEAM", "Pixel2Prototype"]


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wsss' has no attribute {name!r}.")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])

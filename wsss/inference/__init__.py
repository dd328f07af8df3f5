"""Class activation maps and pairwise affinities of images from a trained model.

The names below are imported on first use: importing this package imports neither Keras nor its backend.

Example:
    >>> from wsss.inference import CamPredictor, load_model
    >>> predictor = CamPredictor(load_model("runs/seam-1"), scales=(1.0,))  # doctest: +SKIP
    >>> (prediction,) = predictor.predict([image])  # doctest: +SKIP
"""

import importlib

_PUBLIC = {
    "AffinityPredictor": "wsss.inference.affinity_predictor",
    "CamPredictor": "wsss.inference.predictor",
    "Prediction": "wsss.inference.predictor",
    "load_model": "wsss.inference.loading",
    "load_predictor": "wsss.inference.loading",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wsss.inference' has no attribute {name!r}.")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])

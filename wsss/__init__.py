"""`wsss`: weakly supervised semantic segmentation, from image tags to segmentation masks.

The public names are imported on first use: a Beam worker that only refines masks imports neither TensorFlow
nor Keras.
"""

import importlib

__version__ = "0.2.0.dev0"

# Public name -> module that defines it.
_PUBLIC = {
    # models, Keras
    "CamClassifier": "wsss.models",
    "SEAM": "wsss.models",
    "Pixel2Prototype": "wsss.models",
    "AffinityNet": "wsss.models",
    "IRNet": "wsss.models",
    "DeepLab": "wsss.models",
    "AffineView": "wsss.models",
    "RescaledView": "wsss.models",
    "Backbone": "wsss.backbones.applications",
    "build_backbone": "wsss.backbones.applications",
    # inference and refinement
    "CamPredictor": "wsss.inference.predictor",
    "load_model": "wsss.inference.loading",
    "DenseCRF": "wsss.refine",
    "random_walk": "wsss.refine",
    # measuring and optimizing
    "ThresholdSweep": "wsss.metrics",
    "confusion_matrix": "wsss.metrics",
    "mean_iou": "wsss.metrics",
    "average_precision": "wsss.metrics",
    "GroupedSGD": "wsss.optimizers",
    "GroupedAdamW": "wsss.optimizers",
    "PolynomialSchedule": "wsss.optimizers",
    # the programs as functions
    "prepare_collection": "wsss.pipeline.preparation",
    "train_model": "wsss.training.api",
    "label_collection": "wsss.pipeline.api",
    "relabel_collection": "wsss.pipeline.api",
    "predict_masks": "wsss.pipeline.api",
    "export_masks": "wsss.pipeline.export",
    "run_project": "wsss.project",
    "convert_weights": "wsss.weights.conversion",
}
_PACKAGES = (
    *("backbones", "common", "data", "inference", "layers", "metrics", "models", "ops", "optimizers"),
    *("pipeline", "refine", "training", "utils", "visualization", "weights"),
)

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"wsss.{name}")
    raise AttributeError(f"module 'wsss' has no attribute {name!r}.")


def __dir__():
    return sorted({*globals(), *_PUBLIC, *_PACKAGES})

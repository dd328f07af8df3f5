"""Trainable Keras models; importing this module registers every class that their `.keras` files name."""

# The first lines register the layers and optimizers that a saved file may name.
from wsss import optimizers  # noqa: F401
from wsss.backbones import dilation  # noqa: F401
from wsss.layers import conv, correlation, heads, nonlocal_block, resize  # noqa: F401
from wsss.models.affinity_net import AffinityNet
from wsss.models.cam_classifier import CamClassifier
from wsss.models.deeplab import DeepLab
from wsss.models.irn import IRNet
from wsss.models.pixel2prototype import Pixel2Prototype
from wsss.models.seam import SEAM
from wsss.models.views import AffineView, RescaledView

Classifier = CamClassifier  # the name until version 0.1.0

__all__ = [
    "SEAM",
    "AffineView",
    "AffinityNet",
    "CamClassifier",
    "Classifier",
    "DeepLab",
    "IRNet",
    "Pixel2Prototype",
    "RescaledView",
]

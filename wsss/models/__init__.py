"""Networks and the models that are trained; once this is imported, their `.keras` files load."""

# The first lines register the layers and optimizers that a saved file may name.
from wsss import optimizers  # noqa: F401
from wsss.backbones import dilation  # noqa: F401
from wsss.layers import conv, correlation, heads, nonlocal_block, resize  # noqa: F401
from wsss.models.affinity_net import AffinityNet
from wsss.models.cam_classifier import Classifier
from wsss.models.irn import IRNet
from wsss.models.pixel2prototype import Pixel2Prototype
from wsss.models.seam import SEAM

__all__ = ["SEAM", "AffinityNet", "Classifier", "IRNet", "Pixel2Prototype"]

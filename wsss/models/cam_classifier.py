"""The plain classifier: the baseline that SEAM and Pixel-to-Prototype Contrast are measured against."""

import keras

from wsss.models.seam import SEAM


@keras.saving.register_keras_serializable(package="wsss")
class Classifier(SEAM):
    """SEAM's network trained on the classification loss alone: one view, no other term.

    Its class activation maps are those of Zhou et al., "Learning Deep Features for Discriminative
    Localization", CVPR 2016. Read `cam` out; `refined_cam` is there, but the pixel correlation never learned.
    Arguments and attributes are those of `SEAM`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for layer in self.network.layers:
            if layer.name.startswith("correlation_"):  # nothing tells them what to learn
                layer.trainable = False

    @property
    def loss_terms(self):
        """Names of the terms of the loss, which are the names of their metrics."""
        return ("classification_loss",)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The classification loss of `compile`."""
        scores = y_pred["scores"] if isinstance(y_pred, dict) else y_pred
        return super().compute_loss(x, y, scores, sample_weight, training=training)

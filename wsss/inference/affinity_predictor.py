"""Pairwise affinities, or class-boundary probabilities, of photographs from a trained pair model.

Keras and its backend are imported when a predictor is built, not when this module is.
"""

from typing import Any

import numpy as np

from wsss.common.errors import UserError
from wsss.inference.cam_scores import scaled_size
from wsss.inference.predictor import check_input, fitting_factor, resize_image


class AffinityPredictor:
    """Predicts pairwise affinities, or class-boundary probabilities, of a photograph.

    Args:
        model: an `AffinityNet` or an `IRNet`.
        max_side: images with a longer side are shrunk to it, 0 never shrinks.

    Attributes:
        kind: "affinity" or "edge", what `predict` gives.
        radius: of the affinities, positions; None for edges.

    Raises:
        UserError: the model predicts neither, or accepts one image size only.
    """

    def __init__(self, model: Any, max_side: int = 1024):
        from wsss.inference.compilation import compile_network
        from wsss.inference.fuse_batch_norm import optimize_for_inference
        from wsss.models import AffinityNet, IRNet

        if not isinstance(model, (AffinityNet, IRNet)):
            raise UserError(
                "The model gives neither affinities nor edges: name one that was trained with "
                "`--model affinity` or `--model irn`."
            )
        self.kind = "affinity" if isinstance(model, AffinityNet) else "edge"
        self.radius = model.radius if self.kind == "affinity" else None
        network = getattr(model, self.kind)
        check_input(network)
        self._forward = compile_network(optimize_for_inference(network))
        self._max_side = max_side

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Affinities of each position and its neighbors, 0 beyond the border; or boundary probabilities.

        Args:
            image: uint8 `(height, width, 3)`.

        Returns:
            float32 `(h, w, channels)` at feature resolution; one channel for boundaries.
        """
        size = image.shape[:2]
        image = resize_image(image, scaled_size(size, fitting_factor(size, self._max_side)))
        (outputs,) = self._forward(image[None])
        return outputs[0]

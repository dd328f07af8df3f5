"""What the options of the training program build."""

import pytest

from wsss.training.building import make_backbone, make_model
from wsss.training.options import TrainingOptions


@pytest.mark.parametrize(
    ("backbone", "choice", "expected"),
    [
        ("small", "auto", False),
        ("small", "yes", True),
        ("MobileNetV2", "auto", True),
        ("mobilenet_v2", "no", False),
    ],
)
def test_what_pixels_are_compared_by_is_standardized_where_that_helps(backbone, choice, expected):
    options = TrainingOptions(backbone=backbone, backbone_weights="none", standardize_correlation=choice)
    model = make_model(options, 3, make_backbone(options))
    assert ("correlation_standardized" in [layer.name for layer in model.network.layers]) is expected

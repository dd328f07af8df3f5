"""A small network that learns from scratch in minutes on a CPU: for the built-in collection and for tests."""

from keras import layers

from wsss.backbones.base import Backbone

PAD_VALUE = (0.5, 0.5, 0.5)


def small_backbone(
    output_stride: int = 8, *, width: int = 32, input_shape: tuple = (None, None, 3)
) -> Backbone:
    """Plain convolutions with group normalization, whose field of view is about 90 pixels at stride 8.

    Group normalization knows one image only, so that neither the batch size nor the number of replicas
    changes what is learned.

    Args:
        output_stride: 4, 8 or 16 pixels of the image per position of the features.
        width: channels at half the image's size; each further stage doubles them, up to four times.
        input_shape: `(height, width, 3)` of images; None is any.

    Returns:
        `Backbone`.

    Raises:
        ValueError: another output stride.
    """
    if output_stride not in (4, 8, 16):
        raise ValueError(
            f"`output_stride` of the small network must be 4, 8 or 16. Received: {output_stride}."
        )
    image = layers.Input(input_shape, name="image")
    normalized = x = layers.Rescaling(4.0, -2.0, name="normalization_of_input")(image)
    x = _convolve(x, width, 2, "stage1_down")
    stages = {}
    for stage, stride in enumerate((4, 8, 16), start=2):
        channels = width * min(2 ** (stage - 1), 4)
        within = stride <= output_stride
        dilation = 1 if within else stride // output_stride
        x = _convolve(x, channels, 2 if within else 1, f"stage{stage}_down", max(1, dilation // 2))
        x = layers.Add(name=f"stage{stage}_add")(
            [x, _convolve(x, channels, 1, f"stage{stage}_convolution", dilation)]
        )
        stages[stride] = x
    return Backbone(
        input=image,
        normalized=normalized,
        feature=x,
        stages=stages,
        output_stride=output_stride,
        preprocessing="tf",
        pad_value=PAD_VALUE,
    )


def _convolve(x, channels, stride, name, dilation=1):
    x = layers.Conv2D(
        channels,
        3,
        strides=stride,
        padding="same",
        dilation_rate=dilation,
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    x = layers.GroupNormalization(8, name=f"{name}_norm")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)

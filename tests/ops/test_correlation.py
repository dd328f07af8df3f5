"""Pixel correlation against the authors' numbers, the plain formula and its own properties."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tests.golden import assert_close, golden_cases
from tests.gradients import compiled, gradients, value_and_gradients
from wsss.ops.correlation import pixel_correlation

properties = settings(deadline=None, max_examples=10)
seeds = st.integers(0, 2**32 - 1)


def plain_correlation(cam, feature, epsilon=1e-5):
    """The oracle: the matrix of all pairs, columns normalized, in float64."""
    batch, *_, channels = feature.shape
    unit = feature.reshape(batch, -1, channels).astype("float64")
    unit = unit / (np.linalg.norm(unit, axis=-1, keepdims=True) + epsilon)
    similarity = np.maximum(unit @ unit.transpose(0, 2, 1), 0)
    weights = similarity / (similarity.sum(axis=1, keepdims=True) + epsilon)
    values = cam.reshape(batch, -1, cam.shape[-1])
    return (weights.transpose(0, 2, 1) @ values).reshape(cam.shape)


def inputs(seed=0, size=(7, 9), batch=2, classes=3, channels=5):
    rng = np.random.default_rng(seed)
    cam = rng.random((batch, *size, classes), "float32")
    return cam, rng.normal(size=(batch, *size, channels)).astype("float32")


def run(cam, feature, **options):
    refined = pixel_correlation(*map(ops.convert_to_tensor, (cam, feature)), **options)
    return ops.convert_to_numpy(refined)


def embed(feature, weight):
    """The 1x1 convolution before the correlation."""
    return ops.matmul(
        ops.convert_to_tensor(feature), ops.transpose(ops.convert_to_tensor(weight)[:, :, 0, 0])
    )


@pytest.mark.parametrize("block_elements", [1 << 20, 512])
@golden_cases("b_pcm")
def test_refined_map_and_gradients_equal_the_authors(case, block_elements):
    def refine(cam, feature, weight):
        return pixel_correlation(cam, embed(feature, weight), block_elements=block_elements)

    arrays = case.channels_last("cam"), case.channels_last("f"), case["f9_weight"]
    refined = ops.convert_to_numpy(refine(*map(ops.convert_to_tensor, arrays)))
    assert_close(refined, case.channels_last("cam_rv"), rtol=2e-6)

    upstream = ops.convert_to_tensor(case.channels_last("upstream"))
    cam, feature, weight = gradients(lambda *tensors: ops.sum(refine(*tensors) * upstream), *arrays)
    assert_close(cam, case.channels_last("grad_cam"), rtol=1e-5)
    assert_close(feature, case.channels_last("grad_f"), rtol=1e-5)
    assert_close(weight, case["grad_f9_weight"], rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "batch", "block_elements"),
    [((1, 1), 2, 1 << 20), ((2, 3), 1, 1), ((5, 7), 3, 40), ((5, 7), 3, 300), ((7, 9), 2, 1 << 20)],
)
def test_any_number_of_blocks_gives_the_plain_formula(size, batch, block_elements):
    cam, feature = inputs(size=size, batch=batch)
    refined = run(cam, feature, block_elements=block_elements)
    np.testing.assert_allclose(refined, plain_correlation(cam, feature), atol=2e-6)


def test_gradient_in_blocks_equals_that_of_one_block():
    cam, feature = inputs()
    upstream = np.random.default_rng(1).normal(size=cam.shape).astype("float32")
    upstream = ops.convert_to_tensor(upstream)

    def loss(block_elements):
        return lambda cam, feature: ops.sum(
            pixel_correlation(cam, feature, block_elements=block_elements) * upstream
        )

    whole, parts = gradients(loss(1 << 20), cam, feature), gradients(loss(700), cam, feature)
    for one, other in zip(whole, parts):
        assert_close(one, other, rtol=1e-5)


def test_gradient_equals_finite_differences():
    cam, feature = inputs(size=(3, 4), batch=1)
    upstream = np.random.default_rng(1).normal(size=cam.shape)
    direction = np.random.default_rng(2).normal(size=feature.shape)
    _, (_, gradient) = value_and_gradients(
        lambda cam, feature: ops.sum(
            pixel_correlation(cam, feature, block_elements=50) * ops.convert_to_tensor(upstream, "float32")
        ),
        cam,
        feature,
    )
    ahead, behind = (
        np.sum(plain_correlation(cam, feature + step * direction) * upstream) for step in (1e-6, -1e-6)
    )
    assert np.sum(gradient * direction) == pytest.approx((ahead - behind) / 2e-6, rel=1e-3, abs=1e-5)


@properties
@given(seed=seeds)
def test_permuted_images_and_classes_permute_the_result(seed):
    cam, feature = inputs(seed)
    rng = np.random.default_rng(seed)
    images, classes = rng.permutation(2), rng.permutation(3)
    permuted = run(cam[images][..., classes], feature[images])
    np.testing.assert_allclose(permuted, run(cam, feature)[images][..., classes], atol=1e-6)


@properties
@given(seed=seeds)
def test_result_is_a_mean_of_the_map(seed):
    cam, feature = inputs(seed)
    refined = run(cam, feature)
    assert refined.max() <= cam.max() + 1e-6
    assert refined.min() >= cam.min() * (1 - 1e-3)


def test_length_of_the_features_does_not_matter():
    cam, feature = inputs()
    np.testing.assert_allclose(run(cam, feature), run(cam, 1000 * feature), atol=1e-4)


def test_pixels_without_a_feature_get_nothing_and_a_finite_gradient():
    cam, feature = inputs()
    feature[0, 2, 3] = 0
    assert not run(cam, feature)[0, 2, 3].any()
    (gradient,) = gradients(lambda x: ops.sum(pixel_correlation(cam, x)), feature)
    assert np.isfinite(gradient).all()


def test_map_of_another_size_is_resized_to_the_features():
    cam, feature = inputs()
    refined = run(cam[:, :4, :5], feature)
    assert refined.shape == cam.shape


def test_half_precision_keeps_its_dtype_and_three_digits():
    cam, feature = inputs(size=(12, 12))
    half = run(cam.astype("float16"), feature.astype("float16"))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype("float32"), run(cam, feature), atol=2e-3)


def test_compiled_result_and_gradient_equal_the_eager_ones():
    cam, feature = inputs()
    loss = lambda cam, feature: ops.sum(  # noqa: E731
        pixel_correlation(cam, feature, block_elements=700) ** 2
    )
    refine = lambda *tensors: pixel_correlation(*tensors, block_elements=700)  # noqa: E731
    np.testing.assert_allclose(compiled(refine)(cam, feature), run(cam, feature), atol=1e-6)
    expected = gradients(loss, cam, feature)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        loss = tf.function(loss, jit_compile=True)
    elif keras.backend.backend() == "jax":
        import jax

        loss = jax.jit(loss)
    for one, other in zip(gradients(loss, cam, feature), expected):
        assert_close(one, other, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sizes_known_only_at_run_time_give_the_same_numbers(jit_compile):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("shapes are always known on this backend")
    import tensorflow as tf

    specs = [tf.TensorSpec((None, None, None, channels)) for channels in (3, 5)]

    @tf.function(input_signature=specs, jit_compile=jit_compile)
    def refine(cam, feature):
        with tf.GradientTape() as tape:
            tape.watch(feature)
            refined = pixel_correlation(cam, feature, block_elements=500)
            loss = tf.reduce_sum(refined**2)
        return refined, tape.gradient(loss, feature)

    for size, batch in (((7, 9), 2), ((4, 3), 1)):
        cam, feature = inputs(size=size, batch=batch)
        refined, gradient = refine(cam, feature)
        np.testing.assert_allclose(refined, plain_correlation(cam, feature), atol=2e-6)
        (expected,) = gradients(lambda x, cam=cam: ops.sum(pixel_correlation(cam, x) ** 2), feature)
        assert_close(gradient, expected, rtol=1e-5)


def test_no_tensor_of_the_graph_holds_all_pairs_of_pixels():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("reads TensorFlow's graph")
    import tensorflow as tf

    cam, feature = inputs(size=(20, 20), batch=1)

    @tf.function
    def loss_and_gradient(cam, feature):
        with tf.GradientTape() as tape:
            tape.watch(feature)
            loss = tf.reduce_sum(pixel_correlation(cam, feature, block_elements=10_000))
        return loss, tape.gradient(loss, feature)

    graph = loss_and_gradient.get_concrete_function(*map(tf.constant, (cam, feature))).graph
    bodies = [function.graph for function in graph._functions.values() if hasattr(function, "graph")]
    shapes = [
        tensor.shape for body in (graph, *bodies) for op in body.get_operations() for tensor in op.outputs
    ]
    largest = max(np.prod(shape.as_list()) for shape in shapes if shape.is_fully_defined())
    assert largest <= 10_000


def test_no_operation_is_compiled_anew_for_each_size_of_image():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("reads TensorFlow's graph")
    import tensorflow as tf

    specs = [tf.TensorSpec((None, None, None, channels)) for channels in (3, 5)]
    graph = tf.function(pixel_correlation, input_signature=specs).get_concrete_function().graph.as_graph_def()
    operations = {node.op for function in graph.library.function for node in function.node_def}
    assert any("MatMul" in name for name in operations)
    assert not {name for name in operations if name.startswith("Xla")}


@pytest.mark.parametrize(("devices", "loops"), [(["cpu:0"], True), (["cpu:0", "gpu:0"], False)])
def test_an_accelerator_takes_one_block_without_a_loop(devices, loops, monkeypatch):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("reads TensorFlow's graph")
    import tensorflow as tf

    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    monkeypatch.setattr("wsss.ops.correlation.CPU_BLOCK_ELEMENTS", 10_000)
    cam, feature = inputs(size=(20, 20), batch=1)

    @tf.function
    def refine_with_gradient(cam, feature):
        with tf.GradientTape() as tape:
            tape.watch(feature)
            refined = pixel_correlation(cam, feature)
        return refined, tape.gradient(refined, feature)

    graph = refine_with_gradient.get_concrete_function(*map(tf.constant, (cam, feature))).graph
    assert any("While" in op.type for op in graph.get_operations()) == loops
    refined, _ = refine_with_gradient(cam, feature)
    np.testing.assert_allclose(refined, plain_correlation(cam, feature), atol=2e-6)

"""Multi-scale mirrored CAMs: the fast way gives what the straightforward loop gives."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from tests.stand_in import stand_in_model
from wsss.common.errors import UserError
from wsss.inference import settings as settings_module
from wsss.inference.cam_scores import merge_scales, view_agreement
from wsss.inference.predictor import LARGEST_MIN_SIDE, CamPredictor, smallest_side
from wsss.inference.settings import find_device
from wsss.inference.tiling import executor
from wsss.inference.tiling.executor import TiledExecutor
from wsss.ops.interpolation import interpolation_matrix

SCALES = (0.5, 1.0, 1.5, 2.0)


def photographs(count, size, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


def straightforward_sum(model, image, scales=SCALES):
    """The published loop: one image, one scale, one mirror at a time, every map resized twice."""
    height, width = image.shape[:2]
    summed = 0
    for scale in scales:
        size = (round(height * scale), round(width * scale))
        scaled = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
        for mirrored in (False, True):
            x = np.asarray(scaled, np.float32)[:, :: -1 if mirrored else 1] / 255
            cam = model.refined_cam.predict_on_batch(x[None])[0].transpose(2, 0, 1)
            inner = [interpolation_matrix(a, b, True) for a, b in zip(size, cam.shape[1:], strict=True)]
            outer = [interpolation_matrix(a, b) for a, b in zip((height, width), size, strict=True)]
            full = outer[0] @ (inner[0] @ cam @ inner[1].T) @ outer[1].T
            summed = summed + (full[:, :, ::-1] if mirrored else full)
    return summed


@pytest.mark.parametrize("size", [(37, 50), (24, 24)])
def test_a_batch_gives_the_sums_of_the_straightforward_loop(size):
    model, images = stand_in_model(), photographs(3, size)
    for image, prediction in zip(images, CamPredictor(model, scales=SCALES).predict(images), strict=True):
        ours = merge_scales(prediction.cams, prediction.scaled_sizes, size)
        expected = straightforward_sum(model, image)
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def test_scores_are_the_mean_over_scales_and_mirrors():
    model, (image,) = stand_in_model(), photographs(1, (16, 24))
    (prediction,) = CamPredictor(model, scales=(1.0, 2.0)).predict([image])
    views = [image, np.asarray(Image.fromarray(image).resize((48, 32), Image.Resampling.BICUBIC))]
    views = [np.float32(view)[None, :, ::step] / 255 for view in views for step in (1, -1)]
    expected = np.mean([model.classifier.predict_on_batch(view)[0] for view in views], axis=0)
    np.testing.assert_allclose(prediction.scores, expected, atol=1e-6)


def test_without_mirrors_a_map_is_the_networks_own():
    model, (image,) = stand_in_model(), photographs(1, (16, 24))
    (prediction,) = CamPredictor(model, scales=(1.0,), mirror=False, cam="cam").predict([image])
    expected = model.cam.predict_on_batch(np.float32(image)[None] / 255)[0]
    np.testing.assert_allclose(prediction.cams[0], expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.backends("tensorflow", reason="a graph for all sizes")
def test_a_mixture_of_sizes_is_traced_once_on_a_cpu():
    predictor = CamPredictor(stand_in_model())
    for size in [(16, 16), (17, 33), (40, 9)]:
        predictor.predict(photographs(2, size))
    assert predictor._forward.any_size.experimental_get_tracing_count() == 1
    assert predictor.compilations == 0


@pytest.mark.backends("tensorflow", reason="a graph for all sizes")
def test_the_network_of_a_cpu_is_one_graph_without_loops_or_host_calls():
    predictor = CamPredictor(stand_in_model())
    graph = predictor._forward.any_size.get_concrete_function().graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert not [kind for kind in kinds if "PyFunc" in kind or "While" in kind]


@pytest.mark.backends("tensorflow", reason="XLA beside a graph for all sizes")
def test_compiled_sizes_are_bounded_and_give_the_same():
    model = stand_in_model()
    predictor = CamPredictor(model, scales=(1.0,), jit_compile=True, max_compiled_sizes=2)
    plain = CamPredictor(model, scales=(1.0,))
    for size in [(16, 16), (17, 33), (40, 9)]:
        images = photographs(1, size)
        for _ in range(3):
            (ours,), (expected,) = predictor.predict(images), plain.predict(images)
            np.testing.assert_allclose(ours.cams[0], expected.cams[0], atol=1e-5)
    assert predictor.compilations == 2


def test_groups_of_any_number_take_few_sizes_where_sizes_are_compiled():
    predictor = CamPredictor(stand_in_model(), scales=(1.0,), jit_compile=True)
    calls = predictor._divide(photographs(7, (8, 8)), [(8, 8)])
    assert [len(call.images) for call in calls] == [4, 2, 1]
    assert [call.start for call in calls] == [0, 4, 6]


@pytest.mark.backends("tensorflow", reason="tiled execution")
def test_a_call_beyond_the_bound_on_activation_memory_runs_tiled(monkeypatch):
    monkeypatch.setattr(executor, "STRIP_ELEMENTS", 1024)
    model, (image,) = wide_model(), photographs(1, (40, 40))
    whole = CamPredictor(model, scales=(0.5, 1.0), mirror=False)
    bytes_at_40 = int(whole._bytes_per_pixel * 40 * 40)
    bounded = CamPredictor(model, scales=(0.5, 1.0), mirror=False, max_activation_memory=bytes_at_40 - 1)
    (expected,), (ours,) = whole.predict([image]), bounded.predict([image])
    assert whole._tiled is None
    assert any(isinstance(layer, TiledExecutor) for layer in bounded._tiled.network.layers)
    for cam, other in zip(ours.cams, expected.cams, strict=True):
        np.testing.assert_allclose(cam, other, atol=1e-5)


def wide_model():
    """A model with wide maps between narrow ones."""
    image = keras.Input((None, None, 3))
    x = keras.layers.ReLU()(keras.layers.Conv2D(64, 3, padding="same")(image))
    x = keras.layers.Conv2D(64, 3, padding="same")(keras.layers.Conv2D(64, 3, padding="same")(x))
    cam = keras.layers.Conv2D(2, 1)(x)
    scores = keras.layers.GlobalAveragePooling2D()(cam)
    return SimpleNamespace(
        cam=keras.Model(image, cam),
        refined_cam=keras.Model(image, cam),
        classifier=keras.Model(image, scores),
    )


def test_settings_are_chosen_by_device_and_overridden():
    assert CamPredictor(stand_in_model()).settings.device == find_device()
    settings = CamPredictor(stand_in_model(), threads=3, pixels_at_once=77).settings
    assert (settings.threads, settings.pixels_at_once) == (3, 77)


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (0.0,)}, {"threads": 0}, {"pixels_at_once": -1}]
)
def test_scales_and_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CamPredictor(stand_in_model(), **wrong)


def test_an_accelerator_gets_the_pixels_that_its_memory_holds(monkeypatch):
    monkeypatch.setattr(settings_module, "find_device", lambda: "gpu")
    monkeypatch.setattr(settings_module, "_accelerator_memory", lambda: 16 << 30)
    settings = settings_module.choose_settings(1000.0, threads=2, max_activation_memory=5)
    assert settings.pixels_at_once * 2 * 1000 <= 8 << 30
    assert settings.jit_compile
    assert settings.max_activation_memory is None


def test_a_trained_model_is_followed_after_a_refresh():
    image = keras.Input((None, None, 3))
    cam = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(2, 1)(image))
    scores = keras.layers.GlobalAveragePooling2D()(cam)
    model = SimpleNamespace(cam=keras.Model(image, cam), classifier=keras.Model(image, scores))
    predictor = CamPredictor(model, cam="cam", scales=(1.0,), mirror=False)
    images = photographs(1, (5, 6))
    model.cam.get_layer("norm").beta.assign([1.0, 2.0])
    predictor.refresh()
    expected = keras.ops.convert_to_numpy(model.cam(np.float32(images) / 255, training=False))
    (prediction,) = predictor.predict(images)
    np.testing.assert_allclose(prediction.cams[0], expected[0].transpose(2, 0, 1), atol=1e-5)


def test_how_images_are_split_into_calls_does_not_matter():
    model, images = stand_in_model(), photographs(5, (20, 28))
    whole = CamPredictor(model, scales=(1.0,)).predict(images)
    split = CamPredictor(model, scales=(1.0,), pixels_at_once=2 * 2 * 20 * 28, threads=1).predict(images)
    for one, other in zip(whole, split, strict=True):
        np.testing.assert_allclose(one.cams[0], other.cams[0], atol=1e-6)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


def test_a_mirror_gives_the_same_apart_from_its_image_and_together():
    model, images = stand_in_model(), photographs(2, (20, 28))
    together = CamPredictor(model).predict(images)
    apart = CamPredictor(model, pixels_at_once=1).predict(images)
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
        for cam, other_cam in zip(one.cams, other.cams, strict=True):
            np.testing.assert_allclose(cam, other_cam, atol=1e-6)


def test_a_call_holds_no_more_pixels_than_allowed_unless_one_view_does():
    predictor = CamPredictor(stand_in_model(), pixels_at_once=1000)
    sizes = [(10, 10), (20, 20), (30, 30), (40, 40)]
    calls = predictor._divide(photographs(7, (20, 20)), sizes)
    assert [call.pixels for call in calls if call.size == (40, 40)] == [1600] * 7  # one view of one image
    assert [call.pixels for call in calls if call.size == (30, 30)] == [900] * 7
    assert [call.pixels for call in calls if call.size == (20, 20)] == [800] * 7  # an image and its mirror
    assert [call.pixels for call in calls if call.size == (10, 10)] == [1000, 400]
    assert [call.pixels for call in calls] == sorted((call.pixels for call in calls), reverse=True)


def test_a_long_side_beyond_the_limit_is_shrunk_and_no_other():
    predictor = CamPredictor(stand_in_model(), scales=(0.5, 1.0), max_side=40)
    (large,) = predictor.predict(photographs(1, (30, 80)))
    assert large.scaled_sizes == ((8, 20), (15, 40))
    (small,) = predictor.predict(photographs(1, (20, 40)))
    assert small.scaled_sizes == ((10, 20), (20, 40))
    (never,) = CamPredictor(stand_in_model(), scales=(1.0,), max_side=0).predict(photographs(1, (30, 80)))
    assert never.scaled_sizes == ((30, 80),)


def test_a_long_side_below_the_least_is_enlarged_and_its_map_has_the_size_of_the_image():
    predictor = CamPredictor(stand_in_model(), scales=(0.5, 1.0), min_side=40)
    (small,) = predictor.predict(photographs(1, (10, 20)))
    assert small.scaled_sizes == ((10, 20), (20, 40))
    assert merge_scales(small.cams, small.scaled_sizes, (10, 20)).shape == (3, 10, 20)
    (large,) = predictor.predict(photographs(1, (30, 80)))
    assert large.scaled_sizes == ((15, 40), (30, 80))


def test_the_least_side_is_the_least_that_was_trained_but_never_above_that_of_photographs():
    assert smallest_side(112, (96, 144)) == 96
    assert smallest_side(224, None) == 224
    assert smallest_side(448, (448, 768)) == LARGEST_MIN_SIDE == 256


def test_an_image_of_one_pixel_has_a_map():
    (prediction,) = CamPredictor(stand_in_model()).predict(photographs(1, (1, 1)))
    assert merge_scales(prediction.cams, prediction.scaled_sizes, (1, 1)).shape == (3, 1, 1)


def test_no_images_give_no_predictions_and_unlike_shapes_are_refused():
    predictor = CamPredictor(stand_in_model())
    assert predictor.predict([]) == []
    with pytest.raises(ValueError, match="one shape"):
        predictor.predict(photographs(1, (8, 8)) + photographs(1, (8, 9)))


def test_a_model_for_one_image_size_is_refused():
    with pytest.raises(UserError, match="any size"):
        CamPredictor(stand_in_model(shape=(32, 32, 3)))


def test_a_model_without_class_activation_maps_is_refused():
    plain = keras.Sequential([keras.layers.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(UserError, match="no `refined_cam`"):
        CamPredictor(plain)


def test_agreement_is_that_of_the_mirrors_and_of_the_scales():
    model, (image,) = stand_in_model(), photographs(1, (16, 24))
    assert CamPredictor(model, scales=(1.0,), mirror=False).predict([image])[0].agreement is None
    (prediction,) = CamPredictor(model, scales=(1.0,)).predict([image])
    plain, mirrored = (
        model.refined_cam.predict_on_batch(np.float32(image)[None, :, ::step] / 255)[0, :, ::step]
        for step in (1, -1)
    )
    expected = view_agreement(*(np.moveaxis(cam, -1, 0) for cam in (plain, mirrored)))
    np.testing.assert_allclose(prediction.agreement, expected, atol=1e-5)
    (both,) = CamPredictor(model, scales=(1.0, 2.0), mirror=False).predict([image])
    assert both.agreement.shape == (3,)
    assert np.all((both.agreement >= 0) & (both.agreement <= 1))
    (same,) = CamPredictor(model, scales=(1.0, 1.0), mirror=False).predict([image])
    np.testing.assert_allclose(same.agreement, 1, atol=1e-5)

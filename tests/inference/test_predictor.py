"""Multi-scale mirrored CAMs: the fast way gives what the straightforward loop gives."""

import keras
import numpy as np
import pytest
from PIL import Image

from tests.stand_in import stand_in_model
from wsss.common.errors import UserError
from wsss.inference import predictor as inference
from wsss.inference.cam_scores import merge_scales
from wsss.inference.predictor import CamPredictor, load_predictor
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


def test_a_mixture_of_sizes_is_traced_once(monkeypatch):
    traces = []
    compile_ = inference._compile

    def counting(*args):
        forward, classes = compile_(*args)
        traces.append(forward)
        return forward, classes

    monkeypatch.setattr(inference, "_compile", counting)
    predictor = CamPredictor(stand_in_model())
    for size in [(16, 16), (17, 33), (40, 9)]:
        predictor.predict(photographs(2, size))
    assert traces[0].experimental_get_tracing_count() == 1


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


def test_a_model_without_class_activation_maps_is_refused(tmp_path):
    plain = keras.Sequential([keras.layers.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    path = tmp_path / "model.keras"
    plain.save(path)
    with pytest.raises(UserError, match="no `refined_cam`"):
        load_predictor(path)


def test_a_file_that_is_no_model_and_a_missing_one_are_users_mistakes(tmp_path):
    path = tmp_path / "model.keras"
    with pytest.raises(UserError, match="no model at"):
        load_predictor(path)
    path.write_bytes(b"not a zip file")
    with pytest.raises(UserError, match="not a whole"):
        load_predictor(path)
    keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(999)]).save(path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 255  # among the weights
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="not a whole"):
        load_predictor(path)

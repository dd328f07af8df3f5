"""The benchmark of the defaults: its collections, its probe, and what it calls learned."""

import json

import numpy as np
import pytest

from benchmarks.derived_collections import CELLS, Photo, Scene
from benchmarks.linear_probe import fit_logistic
from benchmarks.robust_defaults import Study, has_learned, show


def scenes(tags, size=(60, 80)):
    """One scene a tuple of tags; the object of the first is the left third of the image."""
    for number, own in enumerate(tags):
        image = np.full((*size, 3), number % 256, np.uint8)
        mask = np.zeros(size, np.uint8)
        mask[:, : size[1] // 3] = own[0] + 1 if own else 0
        yield Scene(f"scene{number}", image, mask, own)


def changed(cell, given, split="train"):
    return list(CELLS[cell].change(given, split, np.random.default_rng(0)))


def selected(cell, photos, split="train"):
    return CELLS[cell].select(photos, split, np.random.default_rng(0))


def photos(*tags):
    return [Photo("msrc_v2", f"photo{number}", frozenset(own)) for number, own in enumerate(tags)]


def test_a_collage_shows_the_objects_and_has_the_tags_of_four_photographs():
    (collage,) = changed("collages", scenes([(0,), (1,), (), (2,), (1, 4)]))

    assert collage.tags == (0, 1, 2, 4)
    assert set(np.unique(collage.mask)) == {0, 1, 2, 3}
    assert collage.image.shape == (*collage.mask.shape, 3)


def test_small_objects_cover_less_than_two_percent_of_their_scene():
    made = changed("small_objects", scenes([(), (0,), (), (3,)], size=(213, 320)))

    assert [scene.tags for scene in made] == [(0,), (3,)]
    for scene in made:
        assert 0 < (scene.mask == scene.tags[0] + 1).mean() < 0.02
        assert scene.mask.max() == scene.tags[0] + 1


def test_one_tag_in_twenty_is_wrong_in_training_and_none_in_validation():
    given = [(number % 10,) for number in range(2000)]

    made = changed("wrong_tags", scenes(given, (6, 6)))
    wrong = np.mean([scene.tags != own for scene, own in zip(made, given, strict=True)])

    assert 0.03 < wrong < 0.06  # some draw the right tag again
    validation = changed("wrong_tags", scenes(given, (6, 6)), "val")
    assert [scene.tags for scene in validation] == given


def test_images_of_64_to_1000_pixels_have_their_masks_in_the_same_sizes():
    made = changed("of_64_to_1000_pixels", scenes([(0,)] * 12))

    sides = [max(scene.mask.shape) for scene in made]
    assert min(sides) >= 64
    assert max(sides) <= 1000
    assert len(set(sides)) > 6
    assert all(scene.image.shape[:2] == scene.mask.shape for scene in made)


def test_exclusive_classes_leave_out_photographs_with_anything_else():
    taken = selected("exclusive", photos({"cow"}, {"cow", "dog"}, {"car"}, {"bird"}, {"face", "cat"}, ()))

    assert [set(photo.tags) for photo in taken] == [{"cow"}, {"bird"}]


def test_of_one_class_every_photograph_is_taken_and_others_fill_up():
    given = photos(*[{"cow"}] * 10, *[{"car"}] * 300)

    taken = selected("one_class", given)

    assert sum("cow" in photo.tags for photo in taken) == 10
    assert len(taken) == 120


def test_an_imbalanced_collection_has_many_of_the_first_class_and_few_of_the_last():
    names = ("cow", "sheep", "boat")
    taken = selected("imbalanced", photos(*[{name} for name in names for _ in range(50)]))

    counts = [sum(name in photo.tags for photo in taken) for name in names]
    assert counts[0] > counts[1] > counts[2] == 3


def test_the_probe_separates_what_can_be_separated():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 5))
    targets = (features[:, :2] > 0.3).astype(float)

    weights, bias = fit_logistic(features, targets)

    assert ((features @ weights + bias > 0) == targets).mean() > 0.98
    assert np.abs(weights[2:]).max() < 0.2 * np.abs(weights[:2]).max()


def row(model, **values):
    key = {"cell": "msrc", "backbone": "edgetpu", "model": model, "options": {}}
    if model != "probe":
        key |= {"batch": 8, "seed": 0}
    return {"key": key, "images": 9, "classes": 2, **values}


def test_a_run_that_ranks_tags_worse_than_the_probe_has_not_learned(capsys):
    probe = row("probe", val_map=0.9, auto=0.4, best=0.5)
    run = row("seam", batch=8, seed=0, val_map=0.8, auto=0.3, best=0.6)

    assert not has_learned(run, probe)
    assert has_learned({**run, "val_map": 0.82}, probe)
    assert not has_learned(row("seam", failure="Stopped"), probe)
    show([probe, run])
    printed = capsys.readouterr().out
    assert "| seam | 80.0 | 30.0 | 60.0 | no |" in printed
    assert "-10.0 over the probe, below it in 1 of 1" in printed


def test_a_finished_run_is_read_and_not_run_again(tmp_path, monkeypatch):
    done = row("seam", val_map=0.8, auto=0.3, best=0.6)
    (tmp_path / "results.jsonl").write_text(json.dumps(done) + "\n")
    monkeypatch.setattr("benchmarks.robust_defaults.write_cell", lambda *_: pytest.fail("ran again"))

    assert Study(tmp_path, {}).row("msrc", "edgetpu", 8, 0, "seam")["auto"] == 0.3

"""The quality score: by hand, where nothing is known, and as a rank of drawn masks."""

import pytest

from benchmarks.quality import main as benchmark
from wsss.pipeline.quality import ClassAreas, quality, quality_parts
from wsss.pipeline.stages.describe import ImageRow


def row(**values):
    known = {"agreement": 0.8, "contrast": 0.5, "class_score": 0.9, "components": 2}
    return ImageRow("a", **{"tags": (0,), "fractions": ((0, 0.8), (1, 0.2)), **known, **values})


def test_the_score_is_the_geometric_mean_of_the_evidence():
    parts = quality_parts(row(), (0,), {0: 0.4})
    expected = {"agreement": 0.8, "contrast": 0.5, "classifier": 0.9, "components": 0.5}
    assert parts == {**expected, "against its class": pytest.approx(0.5)}
    assert quality(row(), (0,), {0: 0.4}) == pytest.approx((0.8 * 0.5 * 0.9 * 0.5 * 0.5) ** 0.2, abs=1e-4)
    refined = row(changed=0.25)
    assert quality_parts(refined, (0,), {0: 0.4})["unchanged"] == 0.75


@pytest.mark.parametrize(
    "worse",
    [
        {"agreement": 0.1},
        {"contrast": 0.1},
        {"class_score": 0.1},
        {"components": 9},
        {"fractions": ((0, 0.1), (1, 0.9))},
        {"fractions": ((0, 0.99), (1, 0.01))},
    ],
)
def test_each_evidence_against_a_mask_lowers_its_score(worse):
    assert quality(row(**worse), (0,), {0: 0.2}) < quality(row(), (0,), {0: 0.2})


def test_without_a_mask_or_an_expected_class_there_is_no_score_and_an_empty_mask_has_none():
    assert quality(ImageRow("failed", flags=("failed",)), (), {}) is None
    assert quality(row(tags=(), flags=("no_class",)), (), {}) is None
    assert quality(row(fractions=((0, 1.0),), flags=("empty",)), (0,), {0: 0.2}) == 0
    assert quality(row(agreement=None), (0,), {0: 0.2}) > 0


def test_areas_are_means_over_the_images_of_a_class():
    areas = ClassAreas()
    for fractions in (((0, 0.8), (1, 0.2)), ((0, 1.0),), ((0, 0.6), (1, 0.4))):
        areas.add(row(fractions=fractions))
    areas.add(ImageRow("failed", tags=(0,), flags=("failed",)))
    assert areas.means() == {0: pytest.approx(0.2)}
    predicted = ClassAreas(predicted=True)
    predicted.add(row(predicted=(1,), fractions=((0, 0.5), (2, 0.5))))
    assert predicted.means() == {1: 0.5}


def test_drawn_masks_are_ranked_by_their_true_iou(capsys):
    assert benchmark(["--quick"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("quality"))
    assert float(line.split()[1]) > 0.5

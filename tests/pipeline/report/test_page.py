"""The page of the report: what it says, whatever names its classes and images have, without any network."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from wsss.pipeline.report.charts import line_chart
from wsss.pipeline.report.page import render
from wsss.pipeline.report.pictures import shown_pictures
from wsss.pipeline.report.results import Metrics, Summary, read_summary

NASTY = "<script>alert('1')</script> \"ü\" & 猫"
THRESHOLDS = tuple(index / 100 for index in range(60))


def make_summary(names=("cat", "dog"), **fields):
    every = ("background", *names)
    options = {
        "data": "shards",
        "split": "train",
        "image_labels": "truth",
        "model": "runs/seam",
        "refine": [],
    }
    summary = Summary(
        options, "0123456789abcdef", tuple(names), 10, 1, dict.fromkeys(every, 5), dict.fromkeys(every, 3)
    )
    return replace(summary, **fields)


def make_metrics(names=("cat", "dog"), **fields):
    curve = tuple(0.3 - abs(0.2 - threshold) for threshold in THRESHOLDS)
    iou = {**dict.fromkeys(("background", *names), 0.25), names[-1]: None}
    values = {
        "of": "masks of the CAM scores",
        "miou": 0.0912,
        "iou": iou,
        "used": 0.25,
        "best": 0.2,
        "best_miou": 0.3,
        "tuned_on": "train",
        "note": "Chosen with the true masks.",
        "sweep_of": "CAM scores",
        "thresholds": THRESHOLDS,
        "curve": curve,
    }
    return Metrics(**{**values, **fields})


class Outline(HTMLParser):
    """The elements of a page, and the text of each kind of element."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self._open = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_data(self, data):
        if self._open:
            self.text[self._open[-1]] = self.text.get(self._open[-1], "") + data


def test_names_of_any_kind_are_shown_and_never_run():
    names = (NASTY, "dog")
    summary = make_summary(
        names, warnings=(NASTY,), flags={"empty": 1}, empty=(NASTY,), lowest=((NASTY, 0.5),)
    )
    summary.options["data"] = NASTY
    strips = [(NASTY, b"png")]
    page = render(summary, make_metrics(names, note=NASTY), strips=strips)
    assert "<script>alert" not in page
    outline = Outline(page)
    assert NASTY in outline.text["td"]
    assert NASTY in outline.text["h1"]
    (alt,) = (attrs["alt"] for tag, attrs in outline.elements if tag == "img")
    assert alt.endswith(NASTY)


def test_the_page_asks_no_network_for_anything():
    page = render(make_summary(), make_metrics(), strips=[("a", b"png")])
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!data:)", page)
    policies = [attrs for tag, attrs in Outline(page).elements if attrs.get("http-equiv")]
    assert [policy["content"].startswith("default-src 'none'") for policy in policies] == [True]


def test_a_curve_of_other_scores_than_those_of_the_headline_says_so():
    walked = "masks of the CAM scores, refined by random walk"
    metrics = make_metrics(of=walked, sweep_of="CAM scores before random walk")
    page = render(make_summary(), metrics)
    assert f"mIoU <b>9.1 %</b> ({walked})" in page
    assert (
        "the mIoU at the top is of the masks of the CAM scores, refined by random walk; this curve is of"
        in page
    )
    assert "Two sets of scores" not in render(make_summary(), make_metrics())


def test_affinity_labels_have_their_name_and_no_miou():
    summary = make_summary()
    summary.options["write"] = "affinity_labels"
    page = render(summary, None)
    assert "<h1>Affinity labels of shards, split train</h1>" in page
    assert "mIoU <b>" not in page


def test_what_was_not_given_is_left_out():
    summary = make_summary()
    summary.options.update(walk_beta=None, affinity_model="", scales=[1.5])
    del summary.options["image_labels"]
    page = render(summary, None)
    assert "<td>scales</td>" in page
    assert not re.search("walk_beta|affinity_model|<td>refine</td>|None|Image labels:", page)


@pytest.mark.parametrize(
    ("y", "texts"),
    [
        ([0.0, 0.5, 1.0], {"0", "1"}),
        ([25.3, 25.3, 25.3], {"25"}),
        ([0.01, 0.02, 0.03], {"0.02"}),
        ([16, 21.8, 18], {"16"}),
    ],
)
def test_a_chart_has_round_ticks_within_its_frame(y, texts):
    chart = line_chart(
        [0.0, 0.3, 0.59], y, label="l", x_label="x", y_label="y", peak="best", line=(0.7, "off")
    )
    left, right, top, bottom = chart.frame
    assert texts <= {tick.text for tick in chart.y_ticks}
    assert 3 <= len(chart.x_ticks) <= 9
    assert all(top <= tick.position <= bottom for tick in chart.y_ticks)
    assert all(left <= tick.position <= right for tick in chart.x_ticks)
    points = [tuple(map(float, point.split(","))) for point in chart.points.split()]
    assert all(left <= x <= right and top <= y <= bottom for x, y in points)
    assert chart.peak[:2] == min(points, key=lambda point: point[1])
    assert chart.line is None  # beyond the axis


def test_the_page_says_how_masks_are_made_with_the_threshold_of_the_slider(labels):
    folder = str(labels)
    summary, metrics = read_summary(folder)
    command = "python -m wsss.relabel LABELS --background_threshold"
    with_slider = {"shown": shown_pictures(folder, summary)}
    assert f'{command} <span id="relabel-threshold">0.20</span>' in render(summary, metrics, **with_slider)
    for change in ({"save_scores": False}, {"cam": "probabilities"}, {"write": "irn_labels"}):
        other = replace(summary, options={**summary.options, **change})
        assert command not in render(other, metrics, **with_slider)

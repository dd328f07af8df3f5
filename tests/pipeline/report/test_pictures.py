"""The pictures of the report: which are kept and shown, however many images there are, and in a browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pseudo_label_cases import make_records, tree
from wsss.common import io
from wsss.common.errors import UserError
from wsss.metrics import ThresholdSweep
from wsss.pipeline.output import LabelSettings, Layout
from wsss.pipeline.report.page import write_report
from wsss.pipeline.report.results import read_summary
from wsss.pipeline.report.shown_images import MOST_RATED, ShownImages
from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.manifest import Manifest, read_pictures, write_manifest
from wsss.pipeline.stages.pictures import (
    Candidate,
    Candidates,
    Picture,
    shrink_labels,
    shrink_scores,
)
from wsss.pipeline.stages.score import Tally
from wsss.pipeline.summary import write_results

NASTY = "<script>document.title='run'</script> \"ü\" & 猫"
NAMES = (NASTY, "dog")
VISIT = Path(__file__).with_name("report_visit.js")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BARS = np.tile(np.linspace(0, 1, 40, dtype=np.float32), (30, 1))  # scores that rise to the right


def make_candidates(shard, count, most):
    """Candidates of a shard, of ascending quality and descending IoU."""
    record = make_records(1)[0]
    mask = (BARS > 0.5).astype(np.uint8)
    total = Candidates()
    for index in range(count):
        image_id = f"{shard}-{index:03d} {NASTY}"
        value = (index + 1) / count
        row = ImageRow(
            image_id,
            tags=(0,),
            predicted=(0, 1),
            predicted_scores=(0.9, 0.6),
            fractions=((0, 0.5), (1, 0.5)),
            components=1,
            flags=("class_missing",) if index % 2 else (),
            contrast=value,
            class_score=value,
            iou=1 - value / 2,
        )
        ids, scores = shrink_scores(BARS[None], (0,))
        total += Candidates(most, (Candidate(row, index == 0, record, mask, ids, scores),))
    return total


def write_output(folder, shards, images, most=1):
    """A finished output of `shards * images` images, which are rows of manifests and no more."""
    layout, manifests = Layout(str(folder)), []
    for number in range(shards):
        name = f"{number:05d}"
        candidates = make_candidates(name, min(images, 4), most)
        pictured = {entry.row.image_id for entry in candidates.entries}
        rest = [ImageRow(f"{name}/{index}", tags=(1,), fractions=((0, 1.0),)) for index in range(images - 4)]
        rows = [*(entry.row for entry in candidates.entries), *rest]
        sweep, confusion = ThresholdSweep(3), np.array([[8, 1, 0, 0], [2, 6, 0, 0], [0, 3, 0, 1]], np.int64)
        sweep.update(BARS[None], [0], (BARS > 0.3).astype(np.uint8))
        tally = Tally(images=len(rows), confusion=confusion, sweep=sweep, strongest=np.arange(61))
        manifest = Manifest(name, "source", tally, tuple(sorted(pictured)))
        write_manifest(layout, manifest, rows, candidates)
        manifests.append(manifest)
    options = {
        "image_labels": "truth",
        "output_format": "png",
        "refine": [],
        "write": "masks",
        "split": "train",
        "model": "m",
    }
    settings = LabelSettings(options, "hash", NAMES)
    write_results(layout, manifests, settings, name="data", threshold=0.3)
    return layout.path("report.html")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_output(tmp_path_factory.mktemp("output"), shards=2, images=4)


def test_of_two_parts_of_a_shard_the_worst_and_the_best_of_both_are_kept():
    whole = make_candidates("a", 9, most=1)
    parts = make_candidates("a", 9, most=1)
    halves = [Candidates(1, parts.entries[:1]), Candidates(1, parts.entries[1:])]
    kept = [entry.row.image_id[:5] for entry in whole.entries]
    assert kept == ["a-000", "a-008"]  # the first is spaced, and worst by quality as well as best by IoU
    assert [entry.row.image_id[:5] for entry in (halves[1] + halves[0]).entries] == kept


def test_small_scores_are_means_and_small_masks_hold_no_new_labels():
    scores = np.zeros((8, 200, 300), np.float32)
    scores[:, :, :150] = np.arange(1, 9)[:, None, None] / 8
    ids, small = shrink_scores(scores, tuple(range(8)))
    assert ids == (2, 3, 4, 5, 6, 7)  # the strongest
    assert small.shape == (6, 43, 64)
    assert (small[-1, 0, 0], small[-1, 0, -1]) == (255, 0)
    mask = np.zeros((1000, 500), np.uint8)
    mask[500:] = 7
    assert shrink_labels(mask).shape == (320, 160)
    assert set(np.unique(shrink_labels(mask))) == {0, 7}
    assert shrink_scores(np.zeros((0, 5, 7), np.float32), ())[1].shape == (0, 5, 7)


def test_a_picture_is_read_back_as_it_was_and_a_damaged_one_is_one_line(tmp_path):
    picture = make_candidates("a", 1, most=1).entries[0].picture()
    value = json.loads(json.dumps(picture.to_json()))
    back = Picture.from_json(value, "a.json")
    assert (back.photo, back.mask, back.truth, back.class_ids) == (
        picture.photo,
        picture.mask,
        picture.truth,
        picture.class_ids,
    )
    np.testing.assert_array_equal(back.scores, picture.scores)
    for change in ({"photo": "?"}, {"scores_shape": [9, 9, 9]}, {"mask": 3}):
        with pytest.raises(UserError, match=r"a\.json is damaged"):
            Picture.from_json({**value, **change}, "a.json")


def test_the_labels_keep_pictures_of_their_images_in_the_manifests(labels, records):
    summary, _ = read_summary(str(labels))
    assert {name for entry in summary.pictures for name in entry.groups} >= {
        "spaced",
        "worst_iou",
        "best_iou",
    }
    entry = summary.pictures[0]
    picture = read_pictures(Layout(str(labels)).manifest(entry.shard))[entry.image_id]
    record = next(record for record in records if record.image_id == entry.image_id)
    with Image.open(labels / "masks" / f"{record.image_id}.png") as mask:
        size = mask.size
    assert picture.scores.shape[1:] == size[::-1]
    assert summary.tags["cat"].tagged == sum(0 in record.labels for record in records)


def test_labels_without_pictures_still_have_a_report(labels, tmp_path):
    shutil.copytree(labels, tmp_path / "labels")
    path = tmp_path / "labels" / "summary.json"
    value = json.loads(path.read_text())
    for name in ("pictures", "tags", "foreground"):
        del value[name]
    io.write_json(str(path), value)
    folder = str(tmp_path / "labels")
    page = io.read_text(write_report(folder, *read_summary(folder)))
    assert page.count("data:image/png") == 2  # the pictures side by side
    assert "recall of tags" not in page
    assert tree(labels)["report.html"].decode() != page


def test_a_hundred_thousand_images_have_a_page_no_larger(tmp_path):
    shown = ShownImages()
    for index in range(100_000):
        picture = "rated" if index % 50 == 0 else None
        shown.add(ImageRow(f"{index:06d}", iou=index / 1e5, picture=picture), index / 1e5, f"{index // 64}")
    assert len(shown.to_json()) == 2 * MOST_RATED
    assert shown.groups["worst_quality"][1].image_id == "000050"
    small = write_output(tmp_path / "small", shards=48, images=4)
    large = write_output(tmp_path / "large", shards=96, images=4)
    assert len(io.read_bytes(large)) < 1.1 * len(io.read_bytes(small)) < 2_000_000


@pytest.mark.parametrize(("classes", "each"), [(3, 4), (60, 2)])
def test_the_worst_and_the_best_of_each_class_are_shown(classes, each):
    shown = ShownImages()
    for index in range(600):
        row = ImageRow(f"{index:03d}", tags=(index % classes,), iou=index / 600, picture="rated")
        shown.add(row, 0.5, "train-0")
    places = {
        entry["groups"]["of_class"]: entry["id"] for entry in shown.to_json() if "of_class" in entry["groups"]
    }
    ids = [places[place] for place in sorted(places)]
    assert len(ids) == classes * each
    last = 600 - classes
    expected = {4: ["000", "003", f"{last:03d}", f"{last - 3:03d}"], 2: ["000", f"{last:03d}"]}[each]
    assert ids[:each] == expected


def test_images_without_truth_are_ordered_by_quality_within_their_predicted_class():
    shown = ShownImages()
    for index, quality in enumerate((0.9, 0.1, 0.5)):
        shown.add(ImageRow(str(index), predicted=(7,), picture="rated"), quality, "train-0")
    worst, best = shown.classes[7]
    assert [entry.image_id for entry in worst] == ["1", "2"]
    assert [entry.image_id for entry in best] == ["0", "2"]


def in_browser(page, tmp_path, width):
    """What `report_visit.js` saw on a page, in a headless browser with a window of this width."""
    path = tmp_path / "page.html"
    path.write_text(
        io.read_text(page).replace("</body>", f"<script>{VISIT.read_text()}</script></body>"),
        encoding="utf-8",
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command += [f"--window-size={width},900", "--virtual-time-budget=4000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, or Chrome")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_finds_sees_and_enlarges_pictures_in_a_browser(page, tmp_path, width):
    seen = in_browser(page, tmp_path, width)
    assert [name[:9] for name in seen["worst"][:2]] == ["00000-000", "00001-000"]
    assert [name[:9] for name in seen["best"][:2]] == ["00001-003", "00000-003"]
    assert NASTY in seen["worst"][0]
    assert seen["all"] == 4 > seen["flagged"] == 2
    assert seen["of_class"] == 4
    assert seen["hidden"] is True is seen["reset"]
    assert seen["low"] == pytest.approx(0.75, abs=0.03)
    assert seen["high"] == pytest.approx(0.25, abs=0.03)
    assert seen["value"] == "0.75"
    assert seen["open"] is True is seen["closed"]
    assert (seen["mask"], seen["cam"], seen["truth"], seen["none"]) == (1, 1, 1, 0)
    assert seen["opacity"] == "0.25"
    assert seen["next"] != seen["name"]
    assert seen["contrast"] >= 4.5  # of WCAG 2.1, level AA
    assert seen["unreachable"] == 0
    assert seen["sorted"] == "dog"  # the last by name
    assert seen["unnamed"] == seen["without_alt"] == 0
    assert seen["title"] != "run"
    assert seen["width"] <= max(seen["inner"], width)

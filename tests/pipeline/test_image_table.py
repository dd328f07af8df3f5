"""`images.csv`: one row an image, whatever became of it, and the same bytes after any interruption."""

import csv
import json

import pytest

from tests.pseudo_label_cases import CLASS_NAMES, corrupt, label, tree, write_collection
from wsss.common import io
from wsss.data.images import decode_mask
from wsss.pipeline.image_table import LISTED, write_table
from wsss.pipeline.output import LabelSettings, Layout
from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.manifest import Manifest
from wsss.pipeline.stages.score import Tally
from wsss.pipeline.summary import write_results
from wsss.predict import main as predict


def table(folder):
    with open(folder / "images.csv", encoding="utf-8", newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def test_every_image_has_a_row_that_agrees_with_its_mask(labels, records):
    rows = table(labels)
    assert sorted(rows) == [record.image_id for record in records]
    for record in records:
        row = rows[record.image_id]
        mask = decode_mask((labels / "masks" / f"{record.image_id}.png").read_bytes())
        assert row["tags"] == ";".join(CLASS_NAMES[index] for index in record.labels)
        assert float(row["threshold"]) == 0.2
        assert float(row["foreground_fraction"]) == pytest.approx((mask > 0).mean(), abs=1e-5)
        for index, name in enumerate(("background", *CLASS_NAMES)):
            assert float(row[f"fraction_{name}"]) == pytest.approx((mask == index).mean(), abs=1e-5)
        assert (row["quality"] == "") == (not record.labels)
        assert row["quality"] == "" or 0 <= float(row["quality"]) <= 1
        assert ("no_class" in row["flags"].split(";")) == (not record.labels)


def test_failed_images_have_a_row_and_a_resumed_run_gives_the_same_table(run, records, tmp_path):
    write_collection(str(tmp_path / "data"), [corrupt(records[0]), *records[1:]])
    flags = ("--data", str(tmp_path / "data"))
    assert label(tmp_path / "labels", run, *flags) == 0
    rows = table(tmp_path / "labels")
    assert rows["image_00"]["flags"] == "failed"
    assert rows["image_00"]["foreground_fraction"] == rows["image_00"]["components"] == ""
    assert len(rows) == 12
    before = tree(tmp_path / "labels")
    first = min((tmp_path / "labels" / "manifests").iterdir())
    first.unlink()
    assert label(tmp_path / "labels", run, *flags) == 0
    assert tree(tmp_path / "labels") == before


def test_images_that_are_left_empty_are_counted_and_named(run, records, tmp_path, capsys):
    for record in records[:3]:
        io.write_bytes(str(tmp_path / "photos" / f"{record.image_id}.png"), record.image_bytes)
    arguments = ["--model", run, "--images", str(tmp_path / "photos"), "--output", str(tmp_path / "out")]
    assert predict([*arguments, "--scales", "1", "--label_threshold", "1"]) == 0
    assert "3 images labeled, 0 failed, 3 left empty" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"]["empty"] == summary["flags"]["empty"] == 3
    assert summary["empty_images"] == [record.image_id for record in records[:3]]
    assert "Left empty: image_00, image_01, image_02" in (tmp_path / "out" / "report.html").read_text()
    assert {row["flags"] for row in table(tmp_path / "out").values()} == {"no_class;empty"}


def test_names_and_ids_of_any_kind_are_one_cell(tmp_path):
    rows = [ImageRow('a,b\n"c', tags=(0, 1)), ImageRow("ü", tags=(0,), fractions=((0, 0.5), (2, 0.5)))]
    layout = Layout(str(tmp_path))
    io.write_json(layout.manifest("one"), {"rows": [row.to_json() for row in rows]})
    write_table(layout, ["one"], ("cup; mug", "dish"))
    found = table(tmp_path)
    assert json.loads(found['a,b\n"c']["tags"]) == ["cup; mug", "dish"]
    assert found["ü"]["fraction_dish"] == "0.5"


def test_of_many_empty_images_the_first_are_listed(tmp_path):
    layout = Layout(str(tmp_path))
    rows = [ImageRow(f"{index:03d}", flags=("empty",)).to_json() for index in range(LISTED + 5)]
    io.write_json(layout.manifest("one"), {"rows": rows})
    statistics = write_table(layout, ["one"], ("cup",))
    assert statistics.flags["empty"] == LISTED + 5
    assert statistics.empty == [f"{index:03d}" for index in range(LISTED)]


def results_of(folder, rows, refine=("walk", "crf")):
    """The result of a job of one shard whose images have these rows, and its `summary.json`."""
    layout = Layout(str(folder))
    manifest = Manifest("one", "source", Tally(images=len(rows)))
    value = {**manifest.to_json(), "rows": [row.to_json() for row in rows]}
    io.write_json(layout.manifest("one"), value)
    options = {"image_labels": "truth", "output_format": "png", "refine": list(refine)}
    settings = LabelSettings(options, "hash", ("cup",))
    return write_results(layout, [manifest], settings, name="data"), io.read_json(layout.path("summary.json"))


def refined_rows(collapsed, lost, count=20):
    for index in range(count):
        flags = ("collapsed",) * (index < collapsed) + ("class_lost",) * (index < lost)
        yield ImageRow(f"{index:02d}", flags=flags, changed=0.5, entropy=(1.0, 0.25))
    yield ImageRow("no class", flags=("no_class",), changed=0.0, entropy=(0.0, 0.0))


def test_masks_that_collapse_are_a_warning_everywhere(tmp_path):
    result, summary = results_of(tmp_path, [*refined_rows(collapsed=6, lost=0)])
    (warning,) = [text for text in result.warnings if "refinement" in text]
    assert warning.startswith("The refinement walk,crf harms the masks: 6 of 20 hold one single value")
    assert warning in summary["warnings"]
    assert warning in (tmp_path / "report.html").read_text()
    assert ", 6 collapsed by the refinement" in result.line
    assert summary["refinement"] == {
        "images": 20,
        "mean_changed": 0.5,
        "mean_entropy_before": 1.0,
        "mean_entropy": 0.25,
        "collapsed": 6,
        "class_lost": 0,
    }


@pytest.mark.parametrize(("collapsed", "lost", "warned"), [(1, 0, False), (0, 4, False), (0, 5, True)])
def test_a_few_masks_that_change_much_are_no_warning(tmp_path, collapsed, lost, warned):
    result, _ = results_of(tmp_path, [*refined_rows(collapsed, lost)])
    assert any("lost a class" in text for text in result.warnings) == warned
    assert any("single value" in text for text in result.warnings) is False


def test_without_refinement_nothing_is_said_about_one(tmp_path):
    result, summary = results_of(tmp_path, [ImageRow("a", fractions=((0, 1.0),))], refine=())
    assert summary["refinement"] is None
    assert "collapsed" not in result.line

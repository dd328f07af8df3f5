"""Preparation of a collection: images with tags, as users have them, to TFRecord shards in TFDS's format."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from wsss.common import cli, io
from wsss.common.errors import UserError
from wsss.common.output_folder import claim
from wsss.data.images import MAX_PIXELS
from wsss.pipeline.execution import progress
from wsss.pipeline.execution.runner import check_paths, make_pipeline, run, runs_nothing
from wsss.pipeline.stages import collection as shards

_METADATA = (
    *("dataset_info.json", "features.json", "labels.labels.txt", "fingerprints.json"),
    *("errors.jsonl", "summary.json"),
)
_LAYOUTS = ("voc", "coco", "mmseg", "fiftyone", "yolo", "label_studio")  # of other programs
_WITH_PHOTOGRAPHS = ("--voc", "--coco", "--label_studio")  # whose photographs may lie elsewhere, --images


@dataclass(frozen=True, kw_only=True)
class PreparationOptions(cli.Options):
    """Options of `python -m wsss.prepare`; each field is a flag of the same name."""

    images: str = cli.option(
        "",
        "folder of images; needs --labels. With --voc, --coco or --label_studio: where their images are",
        metavar="DIR",
        group="source, one of",
    )
    voc: str = cli.option("", "PASCAL VOC devkit, such as VOCdevkit/VOC2012", metavar="DEVKIT")
    coco: str = cli.option("", "COCO: annotations/instances_*.json and image folders", metavar="DIR")
    mmseg: str = cli.option(
        "", "MMSegmentation's img_dir/SPLIT and ann_dir/SPLIT, with metainfo.json or --classes", metavar="DIR"
    )
    fiftyone: str = cli.option(
        "", "FiftyOne's SPLIT/data and SPLIT/labels, with mask_targets.json or --classes", metavar="DIR"
    )
    yolo: str = cli.option("", "YOLO's images/SPLIT and labels/SPLIT of polygons, data.yaml", metavar="DIR")
    label_studio: str = cli.option("", "Label Studio's tasks with brushes or polygons", metavar="JSON")
    tfds: str = cli.option("", "TFDS data set with features image and labels (or label)", metavar="NAME")

    labels: str = cli.option(
        "",
        "table with a column id, maybe split, and one 0/1 column a class or one column labels of names",
        metavar="CSV",
        group="with --images",
    )
    masks: str = cli.option("", "folder of PNG masks: 0 background, 1..K class, 255 unknown", metavar="DIR")
    classes: str = cli.option(
        "",
        "class names in the order of the masks' numbers, one a line; default: as in the table",
        metavar="FILE",
    )
    label_separator: str | None = cli.option(
        None,
        "what separates names in the column labels; default: ; | or , where one occurs",
        metavar="TEXT",
    )
    val_fraction: float | None = cli.option(
        None,
        "part of the images, in (0, 1), that becomes split val if the table has no splits",
        kind=cli.open_unit_interval,
        metavar="X",
    )

    output: str = cli.option(cli.REQUIRED, "folder or gs://… to write to", metavar="DIR", group="output")
    name: str = cli.option("collection", "name of the data set")
    shards: int | None = cli.option(
        None,
        "shards a split, at least 1; default: about 500 images or 192 MiB in each, up to 8 of small splits",
        kind=cli.positive_int,
        metavar="N",
    )
    max_pixels: int = cli.option(
        MAX_PIXELS, "largest area of an image, in pixels, at least 1", kind=cli.positive_int, metavar="N"
    )
    max_error_rate: float = cli.option(
        1.0,
        "exit code 1 if a larger fraction of the images is refused",
        kind=cli.unit_interval,
        metavar="X",
    )
    overwrite: bool = cli.option(False, "replace the collection in --output, once the new one is complete")

    def check(self) -> None:
        given = [f"--{name}" for name in (*_LAYOUTS, "tfds") if getattr(self, name)]
        photographs_only = given and given[0] in _WITH_PHOTOGRAPHS and not self.labels
        if self.images and not photographs_only:
            given.insert(0, "--images")
        if len(given) != 1:
            raise UserError(
                f"Give one source: --images (with --labels), --{', --'.join(_LAYOUTS)} or --tfds. "
                f"Received: {', '.join(given) or 'none'}."
            )
        if given == ["--images"] and not self.labels:
            raise UserError("`--images` needs `--labels`, a CSV file with a column `id` and the classes.")
        takes_classes = not self.coco and not self.tfds
        for name in ("labels", "masks", "classes", "label_separator", "val_fraction"):
            of_folder = given == ["--images"] or (name == "classes" and takes_classes)
            if getattr(self, name) and not of_folder:
                raise UserError(f"`--{name}` goes with `--images`; `{given[0]}` knows its own.")
        if self.tfds and self.shards:
            raise UserError("`--shards` does not go with `--tfds`: its shards stay as they are.")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(
                "`--name` must be lower-case letters, digits and underscores, a letter first. "
                f"Received: {self.name}."
            )


def prepare_collection(output: str, *, beam_argv: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    """Writes images with tags as a collection of TFRecord shards, as `python -m wsss.prepare` does.

    Example:

        summary = wsss.prepare_collection("shards", images="photos", labels="tags.csv", val_fraction=0.1)
        print(summary["images"], summary["refused"])

    Args:
        output: folder, local or `gs://…`.
        beam_argv: Beam's own flags.
        **options: fields of `wsss.pipeline.preparation.PreparationOptions`: one source and what goes with it.

    Returns:
        The content of `summary.json`: counts of images, splits, classes and refusals, and notes.

    Raises:
        UserError: an option, the source or the output folder cannot be used.
    """
    return make_collection(PreparationOptions(output=output, **options), beam_argv)


def make_collection(options: PreparationOptions, beam_argv: Sequence[str] = ()) -> dict[str, Any]:
    """Opens the source, plans and writes the shards, and publishes them when they are complete.

    Args:
        options: `PreparationOptions`.
        beam_argv: Beam's flags.

    Returns:
        The content of `summary.json`.

    Raises:
        UserError: the source or the output folder cannot be used.
    """
    make_pipeline(beam_argv)  # a wrong flag is reported before the work
    check_paths(
        beam_argv, {name: getattr(options, name) for name in ("images", "masks", "voc", "coco", "output")}
    )
    instead = runs_nothing(beam_argv)
    if instead:
        raise UserError(
            f"`wsss.prepare` completes the collection after the job; after {instead} there is none."
        )
    source, images = _open_source(options)
    coding, notes = _find_mask_coding(options, source)
    folder = _claim_output(options, source)
    folder.begin(clear=True)
    plans = _plan(options, source, folder.work, coding)
    results, repeated = _write_shards(plans, images, beam_argv)
    problems = {problem for result in results for problem in result.problems}
    if not options.tfds:
        problems.update(source.problems)
        notes = [*source.notes, *notes]
    summary = _write_results(
        folder.work, options.name, source, results, sorted(problems), [*notes, *repeated]
    )
    folder.publish()
    return summary


def _find_mask_coding(options, source):
    """How the pixel values of the masks stand for classes, and notes about it."""
    from wsss.data.sources.mask_coding import SAMPLE, find_mask_coding, sample_masks

    if options.tfds:
        return find_mask_coding(sample_masks(source, SAMPLE), source.class_names)
    return find_mask_coding(source.items, source.class_names, source.mask_colors)


def _plan(options, source, output, coding):
    """The `ShardPlan`s, one a shard."""
    if options.tfds:
        return shards.plan_collection(source, output, options.name, options.max_pixels, coding)
    return shards.plan_items(source, output, options.name, options.shards, options.max_pixels, coding)


def _write_shards(plans, images, beam_argv):
    """Writes the shards with Beam; the results, and notes about ids that occur more than once."""
    with progress.shown(images) as bar, progress.listen(bar.update):
        _run(plans, beam_argv)
    results = shards.read_results(plans)
    repeated, renamed = shards.rename_duplicates(plans, results)
    if not repeated:
        return results, []
    _run(repeated, beam_argv)
    note = f"image ids that occur again, made unique as ID__2: {len(renamed)}, such as {renamed[0]}"
    return shards.read_results(plans), [note]


def _run(plans, beam_argv):
    pipeline = make_pipeline(beam_argv)
    _ = pipeline | beam.Create(plans) | shards.WriteShards()
    run(pipeline)


def _write_results(output, name, source, results, problems, notes):
    """Writes `errors.jsonl`, `summary.json` and the metadata; the summary."""
    lines = (json.dumps(problem._asdict(), ensure_ascii=False) + "\n" for problem in problems)
    io.write_text(io.join(output, "errors.jsonl"), "".join(lines))
    if not any(result.count for result in results):
        io.remove_tree(shards.plans_folder(output))
        raise UserError(f"No image can be used: see {io.join(output, 'errors.jsonl')}.")
    summary = _summarize(source, results, problems, notes)
    io.write_json(io.join(output, "summary.json"), summary)
    io.remove_tree(shards.plans_folder(output))  # before what marks the collection as complete
    _write_metadata(output, name, source, results)
    return summary


def _open_source(options):
    """The `Listing` or `Collection`, and the number of images in it."""
    if options.tfds:
        from wsss.data.dataset import open_collection

        collection = open_collection(options.tfds)
        return collection, sum(collection.split_sizes.values())
    source = _read_source(options)
    return source, len(source.items)


def _read_source(options):
    """The `Listing` of the images on disk."""
    from wsss.data.sources.coco import read_coco
    from wsss.data.sources.folder import read_folder
    from wsss.data.sources.label_studio import read_label_studio
    from wsss.data.sources.mmseg import read_fiftyone, read_mmseg
    from wsss.data.sources.voc import read_voc
    from wsss.data.sources.yolo import read_yolo

    if options.voc:
        return read_voc(options.voc, options.classes, options.images)
    if options.coco:
        return read_coco(options.coco, options.images)
    if options.label_studio:
        return read_label_studio(options.label_studio, options.images, options.classes)
    for name, read in (("mmseg", read_mmseg), ("fiftyone", read_fiftyone), ("yolo", read_yolo)):
        if getattr(options, name):
            return read(getattr(options, name), options.classes)
    return read_folder(
        options.images,
        options.labels,
        masks=options.masks,
        classes=options.classes,
        val_fraction=options.val_fraction,
        label_separator=options.label_separator,
    )


def _claim_output(options, source):
    """The `OutputFolder`; a collection that is complete is kept unless `--overwrite` is given."""
    inputs = (options.images, options.labels, options.masks, options.classes)
    return claim(
        options.output,
        "collection",
        owned=(*_METADATA, f"{options.name}-*.tfrecord-*-of-*", ".plan/*"),
        inputs=(*inputs, *(getattr(options, name) for name in _LAYOUTS), options.tfds and source.directory),
        overwrite=options.overwrite,
        resumes=False,
        complete=_METADATA[0],
    )


def _write_metadata(output, name, source, results):
    from wsss.data.dataset import write_metadata

    shard_lengths: dict[str, list[int]] = {}
    split_bytes: Counter = Counter()
    for result in results:
        shard_lengths.setdefault(result.split, []).append(result.count)
        split_bytes[result.split] += result.size
    for split in [split for split, lengths in shard_lengths.items() if not any(lengths)]:
        for result in results:
            if result.split == split:
                io.remove(result.path)
        del shard_lengths[split]
    write_metadata(
        output,
        name=name,
        class_names=source.class_names,
        shard_lengths=shard_lengths,
        split_bytes=split_bytes,
        has_masks=source.has_masks,
        description="Images with image-level labels, made by wsss.prepare.",
    )


def _summarize(source, results, problems, notes):
    class_images, class_pixels = shards.total_counts(results)
    images = sum(result.count for result in results)
    splits: Counter = Counter()
    for result in results:
        splits[result.split] += result.count
    refused = {problem.id for problem in problems}
    summary = {
        "images": images,
        "splits": {split: count for split, count in splits.items() if count},
        "classes": {name: class_images[label] for label, name in enumerate(source.class_names)},
        "refused": dict(sorted(Counter(problem.reason for problem in problems).items())),
        "error_rate": round(len(refused) / (images + len(refused)), 6),
        "notes": [*notes],
    }
    if source.has_masks:
        names = {0: "background", 255: "unknown"} | dict(enumerate(source.class_names, start=1))
        summary["pixels"] = {name: class_pixels[number] for number, name in names.items()}
        if any(class_pixels[number] for number in range(len(source.class_names) + 1)):
            unseen = [
                name
                for label, name in enumerate(source.class_names)
                if class_images[label] and not class_pixels[label + 1]
            ]
            summary["notes"] += [f"class {name} is a tag, but no mask shows it" for name in unseen]
        summary["images_without_mask"] = sum(result.without_mask for result in results)
    return summary

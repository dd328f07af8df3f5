"""From a collection as users have it to shards: `python -m wsss.prepare`.

    python -m wsss.prepare --images photos --labels labels.csv --output shards

The output folder is a data set in TFDS's format (`tfds.builder_from_directory` opens it), with beside it:

    errors.jsonl    one line for each image that was refused: id, stage, reason, detail, remedy
    summary.json    counts of images, classes, pixels and refusals

The same images give the same bytes, whatever the runner. A collection that is there already is replaced with
`--overwrite` only, when the new one is complete.
"""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass

from wsss.common import cli, io
from wsss.common.errors import UserError, program
from wsss.common.output_folder import claim
from wsss.data.images import MAX_PIXELS

_METADATA = ("dataset_info.json", "features.json", "labels.labels.txt", "errors.jsonl", "summary.json")


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Options of `python -m wsss.prepare`; each field is a flag of the same name."""

    images: str = cli.option("", "folder of images; needs --labels", metavar="DIR", group="source, one of")
    voc: str = cli.option("", "PASCAL VOC devkit, such as VOCdevkit/VOC2012", metavar="DEVKIT")
    coco: str = cli.option("", "COCO: annotations/instances_*.json and image folders", metavar="DIR")
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
        "shards a split, at least 1; default: about 500 images in each, but up to 8 for small splits",
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

    def check(self):
        given = [f"--{name}" for name in ("images", "voc", "coco", "tfds") if getattr(self, name)]
        if len(given) != 1:
            raise UserError(
                "Give one source: --images (with --labels), --voc, --coco or --tfds. "
                f"Received: {', '.join(given) or 'none'}."
            )
        if self.images and not self.labels:
            raise UserError("`--images` needs `--labels`, a CSV file with a column `id` and the classes.")
        for name in ("labels", "masks", "classes", "label_separator", "val_fraction"):
            if getattr(self, name) and not self.images and not (name == "classes" and self.voc):
                raise UserError(f"`--{name}` goes with `--images`; `{given[0]}` knows its own.")
        if self.tfds and self.shards:
            raise UserError("`--shards` does not go with `--tfds`: its shards stay as they are.")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise UserError(
                "`--name` must be lower-case letters, digits and underscores, a letter first. "
                f"Received: {self.name}."
            )


@program
def main(argv=None):
    """Makes shards; returns 1 when more was refused than `--max_error_rate` allows."""
    from wsss.pipeline.runner import split_arguments

    namespace, beam_argv = split_arguments(argv, make_parser())
    try:
        return prepare(Options(**vars(namespace)), beam_argv)
    except KeyboardInterrupt:
        print("Interrupted; the same command begins anew.")
        return 130


def make_parser():
    """The parser of the program's own flags; Beam parses the rest."""
    return cli.make_parser(
        Options,
        prog="python -m wsss.prepare",
        description="Makes a collection of shards from images with labels. Images that cannot be used are "
        "counted and listed in errors.jsonl. Beam's own flags (--runner, …) may be added.",
    )


def prepare(options, beam_argv=()):
    """Makes the shards, prints a summary, and returns the exit code."""
    import apache_beam as beam

    from wsss.pipeline import progress
    from wsss.pipeline.runner import make_pipeline, run
    from wsss.pipeline.stages import collection as shards

    pipeline = make_pipeline(beam_argv)  # a wrong flag shows before the work
    source, images = _open_source(options)
    if not options.tfds:
        from wsss.data.sources.mask_coding import find_mask_coding

        coding, coding_notes = find_mask_coding(source.items, source.class_names, source.mask_colors)
    folder = _claim_output(options, source)
    folder.begin(clear=True)
    output = folder.work
    if options.tfds:
        plans = shards.plan_collection(source, output, options.name, options.max_pixels)
        problems, notes = [], []
    else:
        plans = shards.plan_items(source, output, options.name, options.shards, options.max_pixels, coding)
        problems, notes = source.problems, source.notes + coding_notes
    with progress.shown(images) as bar, progress.listen(bar.update):
        _ = pipeline | beam.Create(plans) | shards.WriteShards()
        run(pipeline)
    results = shards.read_results(plans)
    repeated, renamed = shards.rename_duplicates(plans, results)
    if repeated:
        pipeline = make_pipeline(beam_argv)
        _ = pipeline | beam.Create(repeated) | shards.WriteShards()
        pipeline.run().wait_until_finish()
        results = shards.read_results(plans)
        notes = [
            *notes,
            f"image ids that occur again, made unique as ID__2: {len(renamed)}, such as {renamed[0]}",
        ]
    problems = sorted({*problems, *(problem for result in results for problem in result.problems)})
    lines = (json.dumps(problem._asdict(), ensure_ascii=False) + "\n" for problem in problems)
    io.write_text(io.join(output, "errors.jsonl"), "".join(lines))
    if not any(result.count for result in results):
        io.remove_tree(shards.plans_folder(output))
        raise UserError(f"No image can be used: see {io.join(output, 'errors.jsonl')}.")
    summary = _summarise(source, results, problems, notes)
    io.write_json(io.join(output, "summary.json"), summary)
    _write_metadata(output, options.name, source, results)
    io.remove_tree(shards.plans_folder(output))
    folder.publish()
    _print_summary(options.output, summary)
    return 0 if summary["error_rate"] <= options.max_error_rate else 1


def _open_source(options):
    """The `Listing` or `Collection`, and the number of images in it."""
    if options.tfds:
        from wsss.data.dataset import open_collection

        collection = open_collection(options.tfds)
        return collection, sum(collection.split_sizes.values())
    from wsss.data.sources.coco import read_coco
    from wsss.data.sources.folder import read_folder
    from wsss.data.sources.voc import read_voc

    if options.images:
        source = read_folder(
            options.images,
            options.labels,
            masks=options.masks,
            classes=options.classes,
            val_fraction=options.val_fraction,
            label_separator=options.label_separator,
        )
    else:
        source = read_voc(options.voc, options.classes) if options.voc else read_coco(options.coco)
    return source, len(source.items)


def _claim_output(options, source):
    """The `OutputFolder`; a collection that is complete is kept unless `--overwrite` is given."""
    inputs = (options.images, options.labels, options.masks, options.classes, options.voc, options.coco)
    return claim(
        options.output,
        "collection",
        owned=(*_METADATA, f"{options.name}-*.tfrecord-*-of-*", ".plan/*"),
        inputs=(*inputs, source.directory if options.tfds else None),
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


def _summarise(source, results, problems, notes):
    from wsss.pipeline.stages.collection import total_counts

    class_images, class_pixels = total_counts(results)
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


def _print_summary(output, summary):
    print(f"{'class':24s} images")
    for name, count in summary["classes"].items():
        print(f"{name:24s} {count:6d}" + ("  (no image shows it)" if not count else ""))
    for note in summary["notes"]:
        print(f"note: {note}")
    if summary.get("images_without_mask"):
        print(f"note: images without a mask, all of it unknown: {summary['images_without_mask']}")
    splits = ", ".join(f"{split} {count}" for split, count in summary["splits"].items())
    refused = ", ".join(f"{reason} {count}" for reason, count in summary["refused"].items())
    print(f"Wrote {summary['images']} images to {output}: {splits}.")
    if refused:
        print(f"Refused: {refused}; see {io.join(output, 'errors.jsonl')}.")


if __name__ == "__main__":
    sys.exit(main())

"""Masks in the formats of annotation tools and training frameworks: `wsss.export_masks`."""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from wsss.common import cli, io
from wsss.common.errors import UserError
from wsss.common.output_folder import OutputFolder, claim
from wsss.data.sources.base import Problem
from wsss.data.targets.base import Target
from wsss.data.targets.coco import CocoTarget
from wsss.data.targets.cvat import CvatTarget
from wsss.data.targets.fiftyone import FiftyOneTarget
from wsss.data.targets.label_studio import LOCAL_FILES, LabelStudioTarget
from wsss.data.targets.mmseg import MmsegTarget
from wsss.data.targets.voc import VocTarget
from wsss.data.targets.yolo import YoloTarget
from wsss.pipeline.execution import progress
from wsss.pipeline.masked_images import MaskedImages, Pair, open_masked_images

TARGETS: dict[str, type[Target]] = {
    "coco": CocoTarget,
    "voc": VocTarget,
    "cvat": CvatTarget,
    "labelstudio": LabelStudioTarget,
    "fiftyone": FiftyOneTarget,
    "mmseg": MmsegTarget,
    "yolo": YoloTarget,
}
_SUMMARY, _ERRORS = "summary.json", "errors.jsonl"
_FILES = "files.txt"  # names all others: an image that the user puts among them is none of ours
_THREADS, _AHEAD = 4, 32  # images in memory at once


@dataclass(frozen=True, kw_only=True)
class ExportOptions(cli.Options):
    """Options of `python -m wsss.export`; each field is a flag of the same name."""

    labels: str = cli.option(
        cli.REQUIRED,
        "output of pseudo_labels or predict, a collection with masks, or a folder of ID.png masks",
        metavar="LABELS",
        positional=True,
    )
    format: str = cli.option(cli.REQUIRED, "what is written", choices=tuple(TARGETS))
    output: str = cli.option(cli.REQUIRED, "folder or gs://… to write to", metavar="DIR")
    images: str = cli.option(
        "",
        "folder of the images that were labeled; default: as LABELS says",
        metavar="DIR",
        group="masks and images",
    )
    data: str = cli.option("", "collection of the images that were labeled; default: as LABELS says")
    split: str = cli.option(
        "", "split of the images; default: all of a collection with masks, else as LABELS says"
    )
    classes: str = cli.option("", "text file, a foreground class a line; default: as LABELS says")
    instances: str = cli.option(
        "class",
        "of coco: an annotation for each class of an image, or for each connected component of it",
        choices=("class", "component"),
        group="format",
    )
    image_url: str = cli.option(
        LOCAL_FILES, "of labelstudio: what the address of an image begins with", metavar="URL"
    )
    copy_images: bool = cli.option(True, "write the image files too, their bytes as they are")
    overwrite: bool = cli.option(False, "replace the export in --output, once the new one is complete")

    def check(self) -> None:
        if self.instances != "class" and self.format != "coco":
            raise UserError(f"`--instances` goes with `--format coco`. Received: --format {self.format}.")
        if self.image_url != LOCAL_FILES and self.format != "labelstudio":
            raise UserError("`--image_url` goes with `--format labelstudio`.")


def export_masks(labels: str, output: str, *, format: str, **options: Any) -> dict[str, Any]:
    """Writes masks and their images in the format of another program, as `python -m wsss.export` does.

    Example:

        wsss.export_masks("labels", "coco", format="coco", instances="component")

    Args:
        labels: output of `pseudo_labels` or `predict`, a collection with masks, or a folder of masks.
        output: folder, local or `gs://…`.
        format: one of `wsss.pipeline.export.TARGETS`.
        **options: fields of `wsss.pipeline.export.ExportOptions`.

    Returns:
        The content of `summary.json`: counts of images, splits, classes and of what was left out.

    Raises:
        UserError: an option, the masks, the images or the output folder cannot be used.
    """
    return export(ExportOptions(labels=labels, output=output, format=format, **options))


def export(options: ExportOptions) -> dict[str, Any]:
    """Opens masks and images, writes them, and publishes the export when it is complete.

    Args:
        options: `ExportOptions`.

    Returns:
        The content of `summary.json`.

    Raises:
        UserError: the masks, the images or the output folder cannot be used.
    """
    source = open_masked_images(
        options.labels,
        images=options.images,
        data=options.data,
        split=options.split,
        classes=options.classes,
    )
    folder = _claim_output(options, source)
    folder.begin(clear=True)
    splits: Counter[str] = Counter()
    problems: list[Problem] = []
    target = _make_target(options, folder.work, source.class_names)
    with progress.shown(source.count) as bar, target:
        for outcome in _encode(source, target):
            bar.update()
            if isinstance(outcome, Problem):
                problems.append(outcome)
                continue
            split, encoded = outcome
            splits[split] += 1
            target.add(encoded)
    return _write_results(folder, options, source.class_names, splits, problems)


def _make_target(options: ExportOptions, folder: str, class_names: tuple[str, ...]) -> Target:
    if options.format == "labelstudio":
        return LabelStudioTarget(folder, class_names, options.copy_images, image_url=options.image_url)
    if options.format == "coco":
        components = options.instances == "component"
        return CocoTarget(folder, class_names, options.copy_images, components=components)
    return TARGETS[options.format](folder, class_names, options.copy_images)


def _encode(source: MaskedImages, target: Target) -> Iterator[Problem | tuple[str, Any]]:
    """Yields `(split, what the target gave)` of each image, or what is wrong with it, in order."""
    classes = len(source.class_names)

    def encode(pair: Pair | Problem):
        image = pair if isinstance(pair, Problem) else pair.load(classes)
        return image if isinstance(image, Problem) else (image.split, target.encode(image))

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from _ahead(pool, encode, source.pairs())


def _ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterable) -> Iterator[Any]:
    """Like `pool.map`, except that only `_AHEAD` items are taken at a time."""
    waiting: deque[Future] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _write_results(
    folder: OutputFolder,
    options: ExportOptions,
    class_names: tuple[str, ...],
    splits: Counter[str],
    problems: list[Problem],
) -> dict[str, Any]:
    """Writes `errors.jsonl` and `summary.json`, and publishes; the summary."""
    if problems:
        lines = (json.dumps(problem._asdict(), ensure_ascii=False) + "\n" for problem in problems)
        io.write_text(io.join(folder.work, _ERRORS), "".join(lines))
    if not splits:
        raise UserError(f"No image can be exported: {problems[0].detail if problems else 'there is none.'}")
    summary = {
        "format": options.format,
        "images": sum(splits.values()),
        "splits": dict(splits),
        "classes": list(class_names),
        "left_out": dict(sorted(Counter(problem.reason for problem in problems).items())),
    }
    io.write_text(io.join(folder.work, _FILES), "".join(f"{name}\n" for name in folder.results()))
    io.write_json(io.join(folder.work, _SUMMARY), summary)
    folder.publish()
    return summary


def _claim_output(options: ExportOptions, source: MaskedImages) -> OutputFolder:
    """The `OutputFolder`; an export that is complete is kept unless `--overwrite` is given."""
    return claim(
        options.output,
        "export",
        owned=(_SUMMARY, _ERRORS, _FILES, *TARGETS[options.format].owned),
        inputs=(*source.inputs, options.classes),
        overwrite=options.overwrite,
        resumes=False,
        complete=_SUMMARY,
        written=_read_files,
    )


def _read_files(folder: str) -> list[str] | None:
    """The names of the files of a complete export; None where they are not known."""
    path = io.join(folder, _FILES)
    if not io.exists(io.join(folder, _SUMMARY)) or not io.exists(path):
        return None
    return [*io.read_text(path).splitlines(), _FILES, _SUMMARY]

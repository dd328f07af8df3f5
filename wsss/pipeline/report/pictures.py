"""The pictures of the report: what is shown of each image, as its template and its program take it."""

import base64
from collections.abc import Sequence
from typing import Any

from wsss.data.images import voc_palette
from wsss.pipeline.output import Layout
from wsss.pipeline.report.results import Summary
from wsss.pipeline.report.shown_images import GROUPS
from wsss.pipeline.stages.manifest import read_pictures, read_rows


def shown_pictures(folder: str, summary: Summary) -> list[dict[str, Any]]:
    """What the page shows of each image in `summary.pictures` that is still at hand, for the template.

    Args:
        folder: output folder of the pipeline, with its manifests.
        summary: of its `summary.json`.

    Raises:
        UserError: a manifest is damaged.
    """
    layout, found = Layout(folder), {}
    for shard in dict.fromkeys(entry.shard for entry in summary.pictures):
        try:
            pictures = read_pictures(layout.manifest(shard))
            rows = {
                row.image_id: row for row in read_rows(layout.manifest(shard)) if row.image_id in pictures
            }
        except FileNotFoundError:  # of a report that is written anew, without the rest of the folder
            continue
        found.update({image_id: (row, pictures[image_id]) for image_id, row in rows.items()})
    return [
        _of_image(entry, *found[entry.image_id], summary)
        for entry in summary.pictures
        if entry.image_id in found
    ]


def _of_image(entry, row, picture, summary):
    names = summary.class_names
    predicted = [
        f"{names[index]} {score:.2f}"
        for index, score in zip(row.predicted, row.predicted_scores, strict=False)
    ]
    tags = [names[index] for index in row.tags]
    classes = sorted(
        {*row.tags, *row.predicted, *(value - 1 for value, _ in row.fractions if 0 < value <= len(names))}
    )
    held = [
        f"{names[value - 1]} {100 * part:.0f} %" for value, part in row.fractions if 0 < value <= len(names)
    ]
    return {
        "id": entry.image_id,
        "groups": entry.groups,
        "tags": tags,
        "predicted": predicted,
        "held": held,
        "quality": entry.quality,
        "iou": row.iou,
        "flags": row.flags,
        "classes": classes,
        "threshold": row.threshold,
        "photo": _uri("jpeg", picture.photo),
        "mask": _uri("png", picture.mask),
        "truth": None if picture.truth is None else _uri("png", picture.truth),
        "class_ids": picture.class_ids,
        "size": (picture.scores.shape[2], picture.scores.shape[1]),
        "scores": base64.b64encode(picture.scores.tobytes()).decode(),
    }


def picture_controls(shown: Sequence[dict[str, Any]], summary: Summary) -> dict[str, Any]:
    """What pictures are chosen by: groups, classes and flags that occur; the colors of the classes."""
    occurring = sorted({index for each in shown for index in each["classes"]})
    colors = [bytes(color).hex() for color in voc_palette()]
    return {
        "groups": [
            (name, text) for name, text in GROUPS.items() if any(name in each["groups"] for each in shown)
        ],
        "classes": [(index, summary.class_names[index], colors[index + 1]) for index in occurring],
        "flags": sorted({flag for each in shown for flag in each["flags"]}),
        "colors": colors[: len(summary.class_names) + 1],
        "has_truth": any(each["truth"] for each in shown),
    }


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

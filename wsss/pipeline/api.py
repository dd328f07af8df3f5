"""The pipeline from Python: `wsss.label_collection`, `wsss.relabel_collection` and `wsss.predict_masks`."""

from collections.abc import Sequence
from typing import Any

from wsss.pipeline.options import LabelOptions, options_of_new_images
from wsss.pipeline.summary import LabelResult


def label_collection(
    model: str = "", data: str = "", output: str = "", *, beam_argv: Sequence[str] = (), **options: Any
) -> LabelResult:
    """Makes pseudo labels of a collection with a trained model, as `pipelines/pseudo_labels.py` does.

    Example:

        result = wsss.label_collection("runs/seam", output="labels", refine=("crf",))
        print(result.miou, result.output)

    Args:
        model: run directory or `.keras` file; empty: the newest run under `./runs`.
        data: collection, TFDS name or folder of images; empty: what the model was trained on.
        output: folder, local or `gs://…`; empty: `pseudo_labels/SPLIT` beside the model.
        beam_argv: Beam's own flags, such as `["--runner=DataflowRunner", …]`.
        **options: fields of `wsss.pipeline.options.LabelOptions`.

    Returns:
        `LabelResult`: counts, mean IoU where true masks are known, and the folder.

    Raises:
        UserError: an option, the inputs or the output folder cannot be used.
    """
    from wsss.pipeline.job import make_pseudo_labels

    return make_pseudo_labels(LabelOptions(model=model, data=data, output=output, **options), beam_argv)


def relabel_collection(
    labels: str, output: str = "", *, beam_argv: Sequence[str] = (), **options: Any
) -> LabelResult:
    """Makes masks anew from stored scores, without the model, as `python -m wsss.relabel` does.

    Example:

        wsss.label_collection("runs/seam", output="scored", save_scores=True)
        result = wsss.relabel_collection("scored", "others", background_threshold=0.3, refine=("pamr",))
        print(result.miou, result.output)

    Args:
        labels: folder of pseudo labels with scores, local or `gs://…`.
        output: folder, local or `gs://…`; empty: `labels` itself, which takes `overwrite=True`.
        beam_argv: Beam's own flags.
        **options: fields of `wsss.pipeline.options.LabelOptions` that change masks and no scores, such as
            `background_threshold`, `refine` and `output_format`; others stay as the labels were made.

    Returns:
        `LabelResult`.

    Raises:
        UserError: an option, the scores, the images or the output folder cannot be used.
    """
    from wsss.pipeline.job.relabeling import make_masks_anew, options_of_relabeling

    return make_masks_anew(labels, options_of_relabeling(labels, output=output, **options), beam_argv)


def predict_masks(
    model: str, images: str, output: str, *, beam_argv: Sequence[str] = (), **options: Any
) -> LabelResult:
    """Makes masks of a folder of images without tags, as `python -m wsss.predict` does.

    Example:

        result = wsss.predict_masks("runs/seam", "photos", "masks", scales=(1.0, 1.5))
        print(result.labeled, result.failed)

    Args:
        model: run directory or `.keras` file.
        images: folder of images, local or `gs://…`, sub-folders included.
        output: folder, local or `gs://…`.
        beam_argv: Beam's own flags.
        **options: fields of `wsss.pipeline.options.LabelOptions`.

    Returns:
        `LabelResult`.

    Raises:
        UserError: an option, the images or the output folder cannot be used.
    """
    from wsss.pipeline.job import make_pseudo_labels

    filled = options_of_new_images(model=model, data=images, output=output, **options)
    return make_pseudo_labels(filled, beam_argv)

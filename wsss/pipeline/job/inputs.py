"""What a job reads: the trained models and the images, checked against one another before any work."""

from dataclasses import dataclass

from wsss.common.errors import UserError
from wsss.data.dataset import Collection
from wsss.pipeline.image_tags import ImageTags
from wsss.pipeline.job.score_folder import ScoreFolder
from wsss.pipeline.job.settings import JobSettings
from wsss.pipeline.stages.read import ImageShards, open_images
from wsss.pipeline.trained_run import TrainedRun, open_trained_run


@dataclass(frozen=True)
class Inputs:
    """What a job reads.

    Attributes:
        data: the folder of the images.
        images: `ImageShards`.
        class_names: the foreground classes.
        affinity_predictor: arguments of `wsss.inference.loading.cached_affinity_predictor`: path and hash of
            the affinity model, and the long side of the images that it sees. None without a random walk.
    """

    data: str
    images: ImageShards
    class_names: tuple[str, ...]
    affinity_predictor: tuple[str, str, int] | None = None

    @property
    def affinity_model_hash(self) -> str | None:
        """Of the affinity model's bytes."""
        return self.affinity_predictor[1] if self.affinity_predictor else None


def open_inputs(job: JobSettings, scores: ScoreFolder | None = None) -> Inputs:
    """Opens the images and the models, and checks that they fit together.

    Args:
        job: the settings of the job.
        scores: those of the model that are stored; where there are some it is not loaded here.

    Raises:
        UserError: the images lack tags, or have those of other classes; a model cannot be used.
    """
    model, settings = job.model, job.images
    data = settings.data
    tags = ImageTags(settings.tag_table, model.class_names) if settings.tag_table else None
    try:
        images = open_images(
            data,
            settings.split,
            images_per_shard=settings.images_per_shard,
            previews=settings.previews,
            leave_out=(job.output.path, *([scores.path] if scores else [])),
            tags=tags,
        )
    except UserError as error:
        if not job.labels:
            raise
        raise UserError(f"{error} `--data` names where the images of {job.labels} are now.") from error
    collection = images.collection
    if collection is not None and settings.tag_table:
        raise UserError(f"`--labels` goes with a folder of images; the collection {data} has its own tags.")
    if collection is None and not settings.tag_table and job.cams.image_labels == "truth":
        raise UserError(
            f"{data} is a folder of images without tags: pass their table, `--labels tags.csv`, or "
            "`--image_labels predicted`."
        )
    _check_classes(model, collection, data)
    known = scores.made_with.class_names if scores else ()
    classes = len(known) or job.cams.handler.load_model().classes
    names = collection.class_names if collection else images.tags.class_names if images.tags else ()
    names = names or known or model.class_names or tuple(f"class_{index + 1}" for index in range(classes))
    if len(names) != classes:
        where = settings.tag_table or data
        raise UserError(f"The model knows {classes} classes, {where} has {len(names)}.")
    affinity = _open_affinity_model(job.affinity_model, settings.max_side) if job.affinity_model else None
    return Inputs(collection.directory if collection else data, images, names, affinity)


def _check_classes(model: TrainedRun, collection: Collection | None, data: str) -> None:
    if collection is not None and model.class_names and collection.class_names != model.class_names:
        raise UserError(
            f"The model was trained on other classes ({_listed(model.class_names)}) than {data} has "
            f"({_listed(collection.class_names)})."
        )


def _open_affinity_model(path: str, max_side: int) -> tuple[str, str, int]:
    """See `Inputs.affinity_predictor`; the model is loaded, so that a wrong one stops the job at once."""
    from wsss.inference.loading import cached_affinity_predictor

    run = open_trained_run(path)
    predictor = (run.model_path, run.model_hash, max_side)
    try:
        cached_affinity_predictor(*predictor)
    except UserError as error:
        raise UserError(f"`--affinity_model {path}`: {error}") from error
    return predictor


def _listed(names: tuple[str, ...], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return f"{len(names)}: {shown}{', …' if len(names) > most else ''}"

"""What a job reads: the trained models and the images, checked against one another before any work."""

from dataclasses import dataclass

from wsss.common.errors import UserError
from wsss.common.tf_import import import_tensorflow
from wsss.data.dataset import Collection
from wsss.pipeline.stages.read import ImageShards
from wsss.pipeline.trained_run import TrainedRun, open_trained_run


@dataclass(frozen=True)
class Inputs:
    """What a job reads.

    Attributes:
        model: gives the CAMs.
        affinity_model: gives the affinities of a random walk, or None.
        images: `ImageShards`.
        class_names: the foreground classes.
    """

    model: TrainedRun
    affinity_model: TrainedRun | None
    images: ImageShards
    class_names: tuple[str, ...]

    @property
    def affinity_model_hash(self) -> str | None:
        """Of the affinity model's bytes."""
        return self.affinity_model.model_hash if self.affinity_model else None

    def affinity_predictor(self, max_side: int) -> tuple[str, str, int] | None:
        """Arguments of `wsss.inference.loading.cached_affinity_predictor`, or None without that model."""
        run = self.affinity_model
        return None if run is None else (run.model_path, run.model_hash, max_side)


def open_inputs(
    model: TrainedRun,
    images: ImageShards,
    *,
    data: str,
    image_labels: str,
    predictor: tuple[tuple[str, object], ...],
    affinity_model: str = "",
    max_side: int = 0,
) -> Inputs:
    """Loads the models and checks that models and images fit together.

    Args:
        model: the trained model.
        images: what is to be labeled.
        data: the path of the images as the user gave it, for messages.
        image_labels: `truth` or `predicted`.
        predictor: keyword arguments of `CamPredictor`.
        affinity_model: run directory or `.keras` file; empty without a walk.
        max_side: of the images that the affinity model sees.

    Raises:
        UserError: the images lack tags, or have those of other classes; a model cannot be used.
    """
    from wsss.inference.loading import cached_predictor

    collection = images.collection
    if collection is None and image_labels == "truth":
        raise UserError(
            f"{data} is a folder of images without tags: pass `--image_labels predicted`, or make a "
            "collection of images and tags with `python -m wsss.prepare`."
        )
    _check_classes(model, collection, data)
    import_tensorflow()
    classes = cached_predictor(model.model_path, model.model_hash, predictor).classes
    names = collection.class_names if collection else ()
    names = names or model.class_names or tuple(f"class_{index + 1}" for index in range(classes))
    if len(names) != classes:
        raise UserError(f"The model knows {classes} classes, {data} has {len(names)}.")
    affinity = _open_affinity_model(affinity_model, max_side) if affinity_model else None
    return Inputs(model, affinity, images, names)


def _check_classes(model: TrainedRun, collection: Collection | None, data: str) -> None:
    if collection is not None and model.class_names and collection.class_names != model.class_names:
        raise UserError(
            f"The model was trained on other classes ({_listed(model.class_names)}) than {data} has "
            f"({_listed(collection.class_names)})."
        )


def _open_affinity_model(path: str, max_side: int) -> TrainedRun:
    """The run of `--affinity_model`; it is loaded here, so that a wrong one stops the job at once."""
    from wsss.inference.loading import cached_affinity_predictor

    run = open_trained_run(path)
    try:
        cached_affinity_predictor(run.model_path, run.model_hash, max_side)
    except UserError as error:
        raise UserError(f"`--affinity_model {path}`: {error}") from error
    return run


def _listed(names: tuple[str, ...], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return f"{len(names)}: {shown}{', …' if len(names) > most else ''}"

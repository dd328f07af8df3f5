"""Builds the backbone, the model, the optimizer and the dataset that the options describe."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import URLError

import keras
import tensorflow as tf

from wsss.backbones.applications import build_backbone, load_weights_file
from wsss.backbones.base import Backbone, freeze
from wsss.backbones.resnet import torchvision_backbone
from wsss.backbones.resnet38 import OUTPUT_STRIDE as RESNET38_STRIDE
from wsss.backbones.resnet38 import resnet38_backbone
from wsss.backbones.tiny import small_backbone
from wsss.common.errors import UserError
from wsss.data.augment import Augmentation
from wsss.data.dataset import Collection
from wsss.data.loader import training_dataset
from wsss.models.affinity_net import AffinityNet, affinity_feature
from wsss.models.cam_classifier import CamClassifier
from wsss.models.deeplab import DeepLab
from wsss.models.irn import IRNet
from wsss.models.pair_model import least_feature_width
from wsss.models.pixel2prototype import Pixel2Prototype
from wsss.models.seam import SEAM
from wsss.models.views import AffineView, RescaledView
from wsss.optimizers import GroupedAdamW, GroupedSGD, PolynomialSchedule, layer_groups
from wsss.training.checkpointing import CheckpointedNetwork
from wsss.training.device import DeviceSettings
from wsss.training.options import TrainingOptions
from wsss.training.state import Progress

TORCHVISION = {"torchvision_resnet50": 50, "torchvision_resnet101": 101}
# Of the networks that learn from pairs of pixels, as published: the radius in positions.
PAIR_RADIUS = {"affinity": 5, "irn": 10}
IRN_STRIDE = 4
DISPLACEMENT_RATE = 10.0  # of IRN's displacement branch, relative to that of its edges
SEAM_MODELS: dict[str, type[SEAM]] = {"seam": SEAM, "pixel2prototype": Pixel2Prototype}


def make_backbone(options: TrainingOptions) -> Backbone:
    """The `Backbone` that the options name.

    Raises:
        UserError: no such network, file or weights.
    """
    try:
        if options.backbone == "small":
            return _with_weights(options, small_backbone(options.output_stride))
        if options.backbone == "resnet38":
            _require_stride(options, RESNET38_STRIDE)
            return _with_weights(options, resnet38_backbone(dropout=options.dropout))
        if options.backbone in TORCHVISION:
            depth = TORCHVISION[options.backbone]
            return _with_weights(options, torchvision_backbone(depth, options.output_stride))
        return build_backbone(
            options.backbone,
            weights=options.backbone_weights,
            output_stride=options.output_stride,
            preprocessing=None if options.preprocessing == "auto" else options.preprocessing,
            frozen_batch_norm=options.freeze_batch_norm,
            frozen_prefixes=options.frozen_layers,
            frozen_fraction=options.frozen_fraction,
        )
    except (ValueError, OSError) as error:
        raise UserError(f"--backbone {options.backbone}: {error}") from error
    except Exception as error:  # Keras raises `Exception` itself
        if not isinstance(error.__context__, URLError):
            raise
        raise UserError(
            f"--backbone {options.backbone}: its ImageNet weights cannot be downloaded "
            f"({error.__context__}). Name a file of them with --backbone_weights, or none."
        ) from error


def make_model(
    options: TrainingOptions, classes: int, backbone: Backbone, tag_logits: Sequence[float] | None = None
) -> keras.Model:
    """The model to be trained, compiled; to be called under the strategy's scope.

    Args:
        options: `TrainingOptions`.
        classes: number of classes, without background.
        backbone: `Backbone`, made under the same scope.
        tag_logits: log-odds of the frequencies of the tags `(classes,)`, of `--class_prior`.

    Raises:
        UserError: the model needs stages that the backbone does not have.
    """
    if options.model == "affinity":
        stages = list(backbone.stages.values())
        return AffinityNet(
            backbone.input, affinity_feature(*([stages[0]] * 3 + stages)[-3:]), PAIR_RADIUS["affinity"]
        )
    if options.model == "irn":
        try:
            return IRNet(backbone, PAIR_RADIUS["irn"])
        except ValueError as error:
            raise UserError(f"--backbone {options.backbone}: {error}") from error
    if options.model == "deeplab":
        dropout = 0.1 if options.dropout else 0.0
        return DeepLab.from_backbone(backbone, classes, head=options.head, dropout=dropout)
    dropout = 0.5 if options.dropout and options.backbone == "resnet38" else 0.0
    if options.model == "classifier":
        return CamClassifier.from_backbone(
            backbone,
            classes,
            dropout=dropout,
            upsample_scores=options.view == "rescale",
            score_offset=tag_logits,
        )
    contrast: dict[str, Any] = {}
    if options.model == "pixel2prototype":
        terms = ("cp_contrast_coef", "cc_contrast_coef", "intra_contrast_coef")
        contrast = dict.fromkeys(terms, options.contrast_weight)
        contrast["background_threshold"] = options.background_threshold
        contrast["contrast_variant"] = options.contrast_variant
    return SEAM_MODELS[options.model].from_backbone(
        backbone,
        classes,
        view=make_view(options),
        standardize_correlation=_standardizes_correlation(options),
        ER_reg_coef=options.er_weight,
        ECR_reg_coef=options.ecr_weight,
        min_pooling_coef=options.min_pooling_weight,
        min_pooling_rate=options.min_pooling_rate,
        ECR_pooling_rate=options.ecr_pooling_rate,
        dropout=dropout,
        score_offset=tag_logits,
        seed=options.seed,
        **contrast,
    )


def make_view(options: TrainingOptions) -> RescaledView | AffineView:
    """The second view of training images that the options name."""
    if options.view == "affine":
        return AffineView()
    size = (options.view_size, options.view_size) if options.view_size else None
    return RescaledView(options.view_scale, size)


def _standardizes_correlation(options):
    if options.standardize_correlation == "auto":
        return options.backbone.replace("_", "").lower() == "mobilenetv2"
    return options.standardize_correlation == "yes"


def compile_model(
    model: keras.Model,
    options: TrainingOptions,
    settings: DeviceSettings,
    backbone: Backbone,
    total_steps: int,
    rate_factor: float = 1.0,
) -> None:
    """Compiles the model and builds the optimizer's variables, under the strategy's scope.

    Args:
        model: of `make_model`.
        options: `TrainingOptions`.
        settings: `DeviceSettings`.
        backbone: the model's `Backbone`.
        total_steps: steps of the whole run.
        rate_factor: factor on the learning rate, as after a restart.

    Raises:
        UserError: gradient checkpointing is asked for where it cannot be.
    """
    if options.gradient_checkpointing:
        try:
            model.training_network = CheckpointedNetwork(model.network)
        except ValueError as error:
            raise UserError(f"--gradient_checkpointing: {error}") from error
    model.compile(
        make_optimizer(options, new_layers(model, backbone), total_steps, rate_factor),
        loss=None if options.learns_from_masks else keras.losses.BinaryCrossentropy(),
        jit_compile=settings.jit_compile,
    )
    model.optimizer.build(model.trainable_variables)


def make_optimizer(
    options: TrainingOptions, new: Mapping[str, float], total_steps: int, rate_factor: float = 1.0
) -> keras.optimizers.Optimizer:
    """The optimizer with its parameter groups and schedule.

    Args:
        options: `TrainingOptions`.
        new: layers that start from random weights, see `layer_groups`.
        total_steps: steps of the whole run.
        rate_factor: factor on the learning rate, as after a restart.
    """
    rate = options.learning_rate * rate_factor
    if options.schedule == "polynomial":
        rate = PolynomialSchedule(rate, total_steps, options.schedule_power)
    groups = layer_groups(
        new, new_layer_multiplier=options.new_layer_multiplier, bias_multiplier=options.bias_multiplier
    )
    shared: dict[str, Any] = {
        "weight_decay": options.weight_decay,
        "groups": groups,
        "global_clipnorm": options.clip_norm or None,
    }
    if options.optimizer == "adamw":
        return GroupedAdamW(rate, **shared)
    return GroupedSGD(rate, momentum=options.momentum, **shared)


def new_layers(model: keras.Model, backbone: Backbone) -> dict[str, float]:
    """Name -> relative learning rate of the layers of `model` that the backbone does not have."""
    old = {layer.name for layer in keras.Model(backbone.input, backbone.feature).layers}
    new = [layer.name for layer in model.network.layers if layer.weights and layer.name not in old]
    return {name: DISPLACEMENT_RATE if name.startswith("fc_dp") else 1.0 for name in new}


def make_augmentation(options: TrainingOptions) -> Augmentation:
    """The `Augmentation` of the options; sizes become multiples of the crop."""
    low, high = options.long_side or (options.image_size, options.image_size)
    brightness, contrast, saturation, hue = options.jitter
    try:
        return Augmentation(
            long_side=(low / options.image_size, high / options.image_size),
            flip=0.5 if options.flip else 0.0,
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
        )
    except ValueError as error:
        raise UserError(f"--jitter: {error}") from error


def make_dataset(
    options: TrainingOptions,
    collection: Collection,
    pad_value: tuple[float, ...],
    strategy: Any,
    progress: Progress,
) -> Any:
    """Dataset of global batches from `progress` to the end of the run; each worker reads its own part.

    Args:
        options: `TrainingOptions`.
        collection: `Collection`.
        pad_value: color in [0, 1] beyond an image's border.
        strategy: `tf.distribute` strategy.
        progress: `Progress`, the place to begin at.
    """

    def part(context):
        replicas = context.num_replicas_in_sync
        dataset = training_dataset(
            collection,
            options.split,
            batch_size=options.batch_size,
            image_size=options.image_size,
            augmentation=make_augmentation(options),
            pad_value=pad_value,
            seed=options.seed,
            first_epoch=progress.epoch,
            epochs=options.epochs,
            replicas=replicas,
            shard_index=context.input_pipeline_id,
            shard_count=context.num_input_pipelines,
            targets="masks" if options.learns_from_masks else "labels",
        )
        return dataset.skip(progress.step * replicas // context.num_input_pipelines)

    return strategy.distribute_datasets_from_function(part)


def batch_shapes(
    options: TrainingOptions, collection: Collection, strategy: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of images and labels in one replica's part of a batch."""
    images, side = options.batch_size // strategy.num_replicas_in_sync, options.image_size
    labels = (images, side, side) if options.learns_from_masks else (images, len(collection.class_names))
    return (images, side, side, 3), labels


def set_numerics(options: TrainingOptions, settings: DeviceSettings) -> None:
    """Seeds, number format and determinism; before TensorFlow runs its first operation.

    Args:
        options: `TrainingOptions`.
        settings: `DeviceSettings`.

    Raises:
        UserError: a deterministic run in a process that has used TensorFlow already.
    """
    keras.utils.set_random_seed(options.seed)
    keras.config.set_dtype_policy(settings.dtype_policy)
    if options.deterministic:
        make_deterministic()


def make_deterministic() -> None:
    """Makes all that TensorFlow computes in this process from now on the same in each run.

    Raises:
        UserError: TensorFlow has computed something in this process already.
    """
    tf.config.experimental.enable_op_determinism()
    try:
        # Operations at the same time share the cores differently each time, and so round differently.
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        raise UserError(
            "--deterministic needs a process of its own, in which TensorFlow has run nothing yet."
        ) from None


def check_data(options: TrainingOptions, strategy: Any, collection: Collection) -> None:
    """Raises a `UserError` for options that the strategy or the collection does not allow."""
    replicas = strategy.num_replicas_in_sync
    if options.batch_size % replicas:
        raise UserError(
            f"--batch_size must be a multiple of the number of replicas, {replicas}. "
            f"Received: {options.batch_size}."
        )
    if options.measures:
        _require_val_split(options.val_split, collection)
    if options.learns_from_masks and not collection.has_targets:
        raise UserError(
            f"--model {options.model} learns from masks; the collection {options.data} has none. Give "
            "--masks, the output of `pseudo_labels`."
        )
    if options.is_affinity_model:
        stride = IRN_STRIDE if options.model == "irn" else options.output_stride
        smallest = least_feature_width(PAIR_RADIUS[options.model]) * stride
        if options.image_size < smallest:
            raise UserError(
                f"--model {options.model} needs --image_size {smallest} or more, {stride} pixels for each "
                f"position. Received: {options.image_size}."
            )
    make_augmentation(options)


def _require_val_split(split, collection):
    if split not in collection.shard_lengths:
        raise UserError(
            f"--val_split: {collection.directory} has no split `{split}`, only "
            f"{', '.join(collection.shard_lengths)}. Train without evaluation by `--val_split none`, or "
            "prepare the collection with `--val_fraction 0.1`."
        )


def _with_weights(options, backbone):
    """Weights and frozen layers for the networks that `build_backbone` does not know."""
    network = keras.Model(backbone.input, backbone.feature)
    weights = options.backbone_weights
    if weights == "imagenet":
        raise UserError(
            f"There are no such weights of {options.backbone}; give --backbone_weights none or FILE."
        )
    if weights != "none":
        load_weights_file(lambda: network.load_weights(weights), weights, options.backbone)
    freeze(network, options.freeze_batch_norm, options.frozen_layers, options.frozen_fraction)
    return backbone


def _require_stride(options, stride):
    if options.output_stride != stride:
        raise UserError(f"--backbone {options.backbone} has --output_stride {stride} and no other.")

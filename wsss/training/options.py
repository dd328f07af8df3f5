"""The options of the training program: one frozen dataclass that also defines the flags and their help."""

import argparse
import dataclasses
from typing import Any

from wsss.common import cli
from wsss.common.errors import UserError
from wsss.training.presets import PRESETS, preset

NUMBER_FORMATS = ("auto", "none", "float16", "bfloat16")
_crop_size = cli.Number(int, lambda value: value >= 16, "a whole number, at least 16")
_seed = cli.Number(int, lambda value: 0 <= value < 2**31, "a whole number in [0, 2147483647]")


def _starts_anew(resume):
    """The meaning of `--resume`, by which 0.1.0 asked for what `--overwrite` does."""
    if resume not in ("auto", "never"):
        raise argparse.ArgumentTypeError(f"must be auto or never. Received: {resume}")
    return resume == "never"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions(cli.Options):
    """Options of `python -m wsss.train`; each field is a flag of the same name."""

    data: str = cli.option(
        "",
        "folder or gs:// path of shards written by wsss.prepare, or a TFDS name; default: drawn scenes",
        group="data and run directory",
    )
    masks: str = cli.option(
        "",
        "folder of label maps to learn from, joined with the images by id: the output of pseudo_labels, or "
        "ID.png files; of affinity, irn and deeplab (default: the masks of --data)",
    )
    split: str = cli.option("train", "split to train on")
    val_split: str = cli.option("val", "split to evaluate on after each epoch, or none")
    val_images: int = cli.option(200, "most images to evaluate on; 0 = all", kind=cli.non_negative_int)
    output: str = cli.option("", "run directory, local or gs://; default: runs/MODEL-NUMBER")
    overwrite: bool = cli.option(
        False,
        "train anew, in place of the run in --output; default: resume it where it is unfinished",
        deprecated={"--resume": _starts_anew},
    )
    progress_seconds: float = cli.option(
        30.0, "seconds between lines within an epoch, where the output is a log", kind=cli.non_negative_float
    )
    checkpoint_steps: int = cli.option(
        0, "save the state every so many steps too; 0 = after each epoch only", kind=cli.non_negative_int
    )

    model: str = cli.option(
        "seam",
        "model to train; classifier: the same network on the classification loss alone; affinity, or irn "
        "for class boundaries: for the random walk, on masks, such as wsss's pseudo labels with --write "
        "affinity_labels; deeplab: the segmentation network that learns from pseudo labels",
        choices=("seam", "pixel2prototype", "classifier", "affinity", "irn", "deeplab"),
        group="network",
    )
    head: str = cli.option(
        "deeplabv3plus",
        "of deeplab, what lies on the backbone: pyramid and decoder of DeepLabV3+, large field of view of "
        "DeepLab v1, or sum of classifiers of DeepLab v2",
        choices=("deeplabv3plus", "largefov", "deeplabv2"),
    )
    backbone: str = cli.option(
        "MobileNetV2",
        "name in keras.applications, resnet38, torchvision_resnet50, torchvision_resnet101, small, or a "
        ".keras file of your own",
    )
    backbone_weights: str = cli.option("imagenet", "imagenet, none, or a weights file")
    preprocessing: str = cli.option(
        "auto",
        "what the backbone expects of its input; auto: as keras.applications or the .keras file says",
        choices=("auto", "tf", "torch", "caffe", "raw", "none"),
    )
    output_stride: int = cli.option(16, "pixels of the image per position of the CAM", choices=(8, 16, 32))
    frozen_layers: tuple[str, ...] = cli.option(
        (),
        "layers or stages of the backbone, by the start of their names, that are not trained",
        metavar="A,B",
    )
    frozen_fraction: float = cli.option(
        0.0,
        "fraction of the backbone's layers, from the image on, not trained, in [0, 1]",
        kind=cli.unit_interval,
    )
    train_backbone: str = cli.option(
        "auto",
        "whether the pretrained layers are trained; no: as with --frozen_fraction 1 --optimizer adamw "
        "--learning_rate 0.0001 --new_layer_multiplier 50, where these are not given; auto: no for tags of "
        "fewer than 100 images, if none of the four is given",
        choices=("auto", "yes", "no"),
    )
    class_prior: bool = cli.option(
        False,
        "of models that learn from tags: add to the class scores, not to the maps, the log-odds of the "
        "frequency of each tag; ranks images better, but leaves the scores of rare tags below 0.5",
    )
    freeze_batch_norm: bool = cli.option(True, "keep statistics, scale and offset of pretrained batch norms")
    dropout: bool = cli.option(True, "use the dropout of backbones and heads that have one")
    standardize_correlation: str = cli.option(
        "auto",
        "standardize the feature of the pixel correlation, against refined maps that spread; auto: with "
        "MobileNetV2 only, see docs/results.md",
        choices=("auto", "yes", "no"),
    )

    epochs: int | None = cli.option(
        None,
        "passes over the split; default: as many as make about 180 steps, at least 4; of affinity and irn 8, "
        "of deeplab 20",
        kind=cli.positive_int,
        group="optimization",
    )
    batch_size: int = cli.option(8, "images a step, over all replicas together", kind=cli.positive_int)
    image_size: int = cli.option(224, "side of the square training crop, pixels", kind=_crop_size)
    seed: int = cli.option(
        0, "seed of weights, order of images, augmentation and the model's random numbers", kind=_seed
    )
    optimizer: str = cli.option("sgd", "optimizer", choices=("sgd", "adamw"))
    learning_rate: float = cli.option(
        0.001, "learning rate of pretrained kernels at the first step", kind=cli.non_negative_float
    )
    momentum: float = cli.option(0.9, "momentum of SGD, in [0, 1)", kind=cli.unit_interval)
    weight_decay: float = cli.option(5e-4, "weight decay on kernels, >= 0", kind=cli.non_negative_float)
    clip_norm: float = cli.option(
        1.0,
        "largest global norm of the gradient of a batch; a larger one is scaled down, 0 = never",
        kind=cli.non_negative_float,
    )
    on_divergence: str = cli.option(
        "restart",
        "what follows where the network does not learn, or its loss is not finite. restart: once more with a "
        "tenth of the learning rate; stop; continue: report it at the end (a loss that is not finite stops)",
        choices=("restart", "stop", "continue"),
    )
    new_layer_multiplier: float = cli.option(
        100.0, "learning rate of new layers relative to pretrained ones", kind=cli.non_negative_float
    )
    bias_multiplier: float = cli.option(
        2.0, "learning rate of biases relative to kernels", kind=cli.non_negative_float
    )
    schedule: str = cli.option(
        "polynomial", "learning rate over the steps", choices=("polynomial", "constant")
    )
    schedule_power: float = cli.option(
        0.9, "power of the polynomial decay to zero", kind=cli.non_negative_float
    )

    view: str = cli.option(
        "rescale",
        "how the second view is made",
        choices=("rescale", "affine"),
        group="second view and losses",
    )
    view_scale: float = cli.option(
        0.5, "size of the second view relative to the crop, in (0, 1]", kind=cli.half_open_unit_interval
    )
    view_size: int = cli.option(
        0,
        "side of the second view in pixels, in place of --view_scale; 0 = not used",
        kind=cli.non_negative_int,
    )
    er_weight: float = cli.option(
        1.0, "weight of equivariant regularization, >= 0", kind=cli.non_negative_float
    )
    ecr_weight: float = cli.option(
        1.0, "weight of equivariant cross regularization, >= 0", kind=cli.non_negative_float
    )
    min_pooling_weight: float = cli.option(
        1.0, "weight of adaptive min pooling, >= 0", kind=cli.non_negative_float
    )
    min_pooling_rate: float = cli.option(
        0.25, "fraction of the lowest pixels in adaptive min pooling, in [0, 1]", kind=cli.unit_interval
    )
    ecr_pooling_rate: float = cli.option(
        0.2,
        "fraction of the largest differences in cross regularization, in (0, 1]",
        kind=cli.half_open_unit_interval,
    )
    contrast_weight: float = cli.option(
        0.1, "weight of each contrast term of pixel2prototype, >= 0", kind=cli.non_negative_float
    )
    contrast_variant: str = cli.option(
        "published",
        "published, or repaired: the background's prototype from the pixels with the least foreground, and "
        "none of absent classes",
        choices=("published", "repaired"),
    )
    background_threshold: float = cli.option(
        0.2, "background score, in [0, 1], for prototypes and for the measured CAM", kind=cli.unit_interval
    )

    long_side: tuple[int, int] | None = cli.option(
        (256, 384),
        "range of the long side after random rescaling, pixels; none: the crop's side",
        metavar="LOW,HIGH",
        group="augmentation",
    )
    jitter: tuple[float, float, float, float] = cli.option(
        (0.3, 0.3, 0.3, 0.1), "largest change of brightness, contrast, saturation, hue", metavar="B,C,S,H"
    )
    flip: bool = cli.option(True, "flip half of the images horizontally")

    strategy: str = cli.option(
        "default",
        "default: one device; mirrored: all devices of this machine; multi_worker: the processes named in "
        "TF_CONFIG; tpu",
        choices=("default", "mirrored", "multi_worker", "tpu"),
        group="machines and numbers",
    )
    cpu_replicas: int = cli.option(
        1, "replicas where there is no accelerator (for trying a strategy out)", kind=cli.positive_int
    )
    mixed_precision: str = cli.option(
        "auto",
        "number format of activations; auto: bfloat16 on accelerators that have it, else none (float32)",
        choices=NUMBER_FORMATS,
    )
    jit_compile: bool | None = cli.option(
        None, "compile the training step with XLA (default: on an accelerator with one replica)"
    )
    gradient_checkpointing: bool = cli.option(
        False,
        "compute activations again in the backward pass in place of keeping them: larger crops and batches "
        "in the same memory, in up to 1.4 of the time; the numbers stay the same",
    )
    steps_per_execution: int = cli.option(
        0,
        "most steps without a visit of the host in between; a divisor of an epoch's steps is taken; "
        "0 = 16 on accelerators, else 1",
        kind=cli.non_negative_int,
    )
    deterministic: bool = cli.option(
        False, "the same bits from every run on the same machine, somewhat slower"
    )

    def check(self) -> None:
        limits = self.long_side
        if limits is not None and not 0 < limits[0] <= limits[1]:
            raise UserError(
                f"--long_side must be LOW,HIGH with 0 < LOW <= HIGH. Received: {cli.shown(limits)}."
            )
        if self.masks and not self.learns_from_masks:
            raise UserError(
                f"--masks is for the models affinity, irn and deeplab; {self.model} learns from tags."
            )
        if self.class_prior and self.learns_from_masks:
            raise UserError(
                f"--class_prior is for models that learn from tags; {self.model} learns from masks."
            )
        if self.masks and not self.data:
            raise UserError("--masks needs --data, the images that the label maps belong to.")
        if self.strategy == "multi_worker" and not (self.output and self.data):
            raise UserError("--strategy multi_worker needs --data and --output that every worker can reach.")

    @property
    def passes(self) -> int:
        """The epochs, once `recipe.fill_in` has chosen them where none were given."""
        if self.epochs is None:
            raise ValueError("`epochs` is still open; `wsss.training.recipe.fill_in` chooses it.")
        return self.epochs

    @property
    def measures(self) -> bool:
        """Whether the CAMs, or the segmentation, are evaluated after each epoch."""
        return self.val_split != "none" and not self.is_affinity_model

    @property
    def is_affinity_model(self) -> bool:
        """Whether the model learns pairwise affinities from masks, and has no CAMs."""
        return self.model in ("affinity", "irn")

    @property
    def learns_from_masks(self) -> bool:
        """Whether the model learns from label maps in place of tags."""
        return self.is_affinity_model or self.model == "deeplab"


# For the drawn scenes of `wsss.data.synthetic`: a small network from scratch, a minute or two on two cores.
BUILT_IN: dict[str, Any] = {
    "backbone": "small",
    "backbone_weights": "none",
    "output_stride": 8,
    "epochs": 20,
    "batch_size": 16,
    "image_size": 112,
    "long_side": (96, 144),
    "optimizer": "adamw",
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "new_layer_multiplier": 1.0,
    "bias_multiplier": 1.0,
    "view_scale": 0.5,
    "background_threshold": 0.4,
}
# Where they differ from the others': what learns on collections of 100 photographs as well as on large ones.
OF_MODEL: dict[str, dict[str, Any]] = {
    "affinity": {"epochs": 8},
    "irn": {"epochs": 8},
    "deeplab": {
        "optimizer": "adamw",
        "learning_rate": 0.0001,
        "new_layer_multiplier": 10.0,
        "bias_multiplier": 1.0,
        "weight_decay": 0.01,
        "epochs": 20,
    },
}


def default_values(preset_name: str, data: str, model: str) -> dict[str, Any]:
    """The options that are set before any flag: a preset's, the built-in collection's or the model's."""
    if preset_name or not data:
        return preset_values(preset_name or "built_in")
    return OF_MODEL.get(model, {})


def parse_options(argv: list[str] | None = None) -> TrainingOptions:
    """Options from a command line: defaults, then the preset's or model's, then the flags that are given.

    Raises:
        UserError: a value is out of range.
    """
    presets = cli.Parser(add_help=False)
    presets.add_argument("--preset", default="")
    presets.add_argument("--data", default="")
    presets.add_argument("--model", default="")
    early, _ = presets.parse_known_args(argv)
    parser = make_parser()
    parser.set_defaults(**default_values(early.preset, early.data, early.model))
    values = vars(parser.parse_args(argv))
    del values["preset"]
    return TrainingOptions(**values)


def preset_values(name: str) -> dict[str, Any]:
    """The options that a preset sets."""
    if not name:
        return {}
    if name == "built_in":
        return BUILT_IN
    try:
        values = dataclasses.asdict(preset(name))
    except ValueError as error:
        raise UserError(str(error).replace("`preset`", "--preset")) from None
    return {
        field.name: values[field.name]
        for field in dataclasses.fields(TrainingOptions)
        if field.name in values and (values[field.name] is not None or field.name == "long_side")
    }


def make_parser() -> cli.Parser:
    """The argument parser, one flag a field of `TrainingOptions`."""
    parser = cli.make_parser(
        TrainingOptions,
        prog="python -m wsss.train",
        description="Trains a network on image tags, so that its class activation maps become masks.",
    )
    names = ", ".join(["built_in", *PRESETS])
    parser.add_argument("--preset", default="", help=f"defaults of a published protocol: {names}")
    return parser

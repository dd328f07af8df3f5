"""The options of the training program: one frozen dataclass, from which the flags and their help are made."""

import argparse
import dataclasses
import typing

from wsss.common import cli
from wsss.common.errors import UserError
from wsss.training.presets import PRESETS, preset


def _flag(default, help_text, *, choices=None, form=None):
    """A field of `TrainingOptions`; `form` shows how a value of several numbers is written."""
    return dataclasses.field(
        default=default, metadata={"help": help_text, "choices": choices, "form": form or ""}
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Everything that `python -m wsss.train` can be told; each field is a flag of the same name."""

    data: str = _flag(
        "", "folder or gs:// path of shards written by wsss.prepare, or a TFDS name; default: drawn scenes"
    )
    split: str = _flag("train", "split to train on")
    val_split: str = _flag("val", "split to measure on after each epoch, or none")
    val_images: int = _flag(200, "measure on at most this many images; 0 = all")
    output: str = _flag("", "run directory, local or gs://; default: runs/MODEL-NUMBER")
    resume: str = _flag(
        "auto",
        "auto: go on with an unfinished run of the same options; never: start anew",
        choices=("auto", "never"),
    )
    progress_seconds: float = _flag(30.0, "seconds between lines within an epoch, where the output is a log")
    checkpoint_steps: int = _flag(0, "save the state every so many steps too; 0 = after each epoch only")

    model: str = _flag(
        "seam",
        "what is trained; classifier: the same network on the classification loss alone; affinity, or irn "
        "for class boundaries: for the random walk, on the masks of --data, such as wsss's pseudo labels "
        "with --write affinity_labels",
        choices=("seam", "pixel2prototype", "classifier", "affinity", "irn"),
    )
    backbone: str = _flag(
        "MobileNetV2",
        "name in keras.applications, resnet38, torchvision_resnet50, torchvision_resnet101, small, or a "
        ".keras file of your own",
    )
    backbone_weights: str = _flag("imagenet", "imagenet, none, or a weights file")
    preprocessing: str = _flag(
        "auto",
        "what the backbone expects of its input; auto: as keras.applications or the .keras file says",
        choices=("auto", "tf", "torch", "caffe", "raw", "none"),
    )
    output_stride: int = _flag(16, "pixels of the image per position of the CAM", choices=(8, 16, 32))
    frozen_layers: tuple[str, ...] = _flag(
        (), "layers or stages of the backbone, by the start of their names, that are not trained", form="A,B"
    )
    frozen_fraction: float = _flag(
        0.0, "share of the backbone's layers, from the image on, not trained, in [0, 1]"
    )
    freeze_batch_norm: bool = _flag(True, "keep statistics, scale and offset of pretrained batch norms")
    dropout: bool = _flag(True, "use the dropout of backbones that have one")
    standardize_correlation: str = _flag(
        "auto",
        "standardize what pixels are compared by, where a network's refined maps are wide; auto: with "
        "MobileNetV2 only, see benchmarks/RESULTS.md",
        choices=("auto", "yes", "no"),
    )

    epochs: int = _flag(8, "passes over the split")
    batch_size: int = _flag(8, "images a step, over all replicas together")
    image_size: int = _flag(224, "side of the square training crop, pixels")
    seed: int = _flag(0, "seed of weights, order of images, augmentation and the model's own chance")
    optimizer: str = _flag("sgd", "optimizer", choices=("sgd", "adamw"))
    learning_rate: float = _flag(0.001, "learning rate of pretrained kernels at the first step")
    momentum: float = _flag(0.9, "momentum of SGD, in [0, 1)")
    weight_decay: float = _flag(5e-4, "weight decay on kernels, >= 0")
    new_layer_multiplier: float = _flag(100.0, "learning rate of new layers relative to pretrained ones")
    bias_multiplier: float = _flag(2.0, "learning rate of biases relative to kernels")
    schedule: str = _flag("polynomial", "learning rate over the steps", choices=("polynomial", "constant"))
    schedule_power: float = _flag(0.9, "power of the polynomial decay to zero")

    view: str = _flag("rescale", "how the second view is made", choices=("rescale", "affine"))
    view_scale: float = _flag(0.5, "size of the second view relative to the crop, in (0, 1]")
    view_size: int = _flag(0, "side of the second view in pixels, in place of --view_scale; 0 = not used")
    er_weight: float = _flag(1.0, "weight of equivariant regularisation, >= 0")
    ecr_weight: float = _flag(1.0, "weight of equivariant cross regularisation, >= 0")
    min_pooling_weight: float = _flag(1.0, "weight of adaptive min pooling, >= 0")
    min_pooling_rate: float = _flag(0.25, "share of the lowest pixels in adaptive min pooling, in [0, 1]")
    ecr_pooling_rate: float = _flag(
        0.2, "share of the largest differences in cross regularisation, in (0, 1]"
    )
    contrast_weight: float = _flag(0.1, "weight of each contrast term of pixel2prototype, >= 0")
    contrast_variant: str = _flag(
        "published",
        "published, or repaired: the background's prototype from the pixels with the least foreground, and "
        "none of absent classes",
        choices=("published", "repaired"),
    )
    background_threshold: float = _flag(
        0.2, "background score, in [0, 1], for prototypes and for the measured CAM"
    )

    long_side: tuple[int, int] | None = _flag(
        (256, 384),
        "range of the long side after random rescaling, pixels; none: the crop's side",
        form="LOW,HIGH",
    )
    jitter: tuple[float, float, float, float] = _flag(
        (0.3, 0.3, 0.3, 0.1), "largest change of brightness, contrast, saturation, hue", form="B,C,S,H"
    )
    flip: bool = _flag(True, "mirror half of the images")

    strategy: str = _flag(
        "default",
        "default: one device; mirrored: all devices of this machine; multi_worker: the processes named in "
        "TF_CONFIG; tpu",
        choices=("default", "mirrored", "multi_worker", "tpu"),
    )
    cpu_replicas: int = _flag(1, "replicas where there is no accelerator (for trying a strategy out)")
    mixed_precision: str = _flag(
        "none", "number format of activations", choices=("none", "float16", "bfloat16")
    )
    jit_compile: bool = _flag(False, "compile the training step with XLA (slower on CPUs)")
    deterministic: bool = _flag(False, "the same bits from every run on the same machine, somewhat slower")

    def __post_init__(self):
        check_options(self)

    @property
    def measures(self):
        """Whether the class maps are measured after each epoch."""
        return self.val_split != "none" and not self.learns_pairs

    @property
    def learns_pairs(self):
        """Whether the network learns from the masks which pixels belong together, and has no class maps."""
        return self.model in ("affinity", "irn")


# For the drawn scenes of `wsss.data.synthetic`: a small network from scratch, a minute or two on two cores.
BUILT_IN = {
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


def parse_options(argv=None):
    """Options from a command line: defaults, then the preset's, then the flags that are given.

    Raises:
        UserError: a value is out of range.
    """
    presets = cli.Parser(add_help=False)
    presets.add_argument("--preset", default="")
    presets.add_argument("--data", default="")
    early, _ = presets.parse_known_args(argv)
    parser = make_parser()
    parser.set_defaults(**preset_values(early.preset or ("" if early.data else "built_in")))
    values = vars(parser.parse_args(argv))
    del values["preset"]
    return TrainingOptions(**values)


def preset_values(name):
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
        for field in _fields()
        if field.name in values and (values[field.name] is not None or _may_be_none(field))
    }


def make_parser():
    """The argument parser, one flag a field of `TrainingOptions`."""
    parser = cli.Parser(
        prog="python -m wsss.train",
        description="Trains a network on image tags, so that its class activation maps become masks.",
    )
    names = ", ".join(["built_in", *PRESETS])
    parser.add_argument("--preset", default="", help=f"defaults of a published protocol: {names}")
    group = parser
    for field in _fields():
        if field.name in _GROUPS:
            group = parser.add_argument_group(_GROUPS[field.name])
        _add_flag(group, field)
    return parser


def _fields():
    return dataclasses.fields(TrainingOptions)


# Where in the help a group of flags begins, and what it is called.
_GROUPS = {
    "data": "data and run directory",
    "model": "network",
    "epochs": "optimisation",
    "view": "second view and losses",
    "long_side": "augmentation",
    "strategy": "machines and numbers",
}


def _add_flag(parser, field):
    flag, choices, form = f"--{field.name}", field.metadata["choices"], field.metadata["form"]
    help_text = field.metadata["help"].replace("%", "%%")
    if "default:" not in help_text:
        help_text += f" (default: {_shown(field.default)})"
    if field.type is bool:
        parser.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=field.default, help=help_text
        )
        return
    convert = _several(field) if form else field.type
    metavar = None if choices else (form or field.type.__name__.upper())
    parser.add_argument(
        flag, type=convert, choices=choices, default=field.default, metavar=metavar, help=help_text
    )


def _several(field):
    """A converter for values written with commas; `none` where the field allows it."""
    optional = _may_be_none(field)
    kinds = typing.get_args(field.type)
    kinds = typing.get_args(kinds[0]) if optional else kinds

    def convert(text):
        if optional and text == "none":
            return None
        parts = text.split(",") if text else []
        if kinds[-1] is not ... and len(parts) != len(kinds):
            raise argparse.ArgumentTypeError(f"expected {field.metadata['form']}, got {text!r}")
        try:
            return tuple(kinds[0](part) for part in parts)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {field.metadata['form']}, got {text!r}") from None

    return convert


def _may_be_none(field):
    return type(None) in typing.get_args(field.type)


def _shown(value):
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value in (None, "") else value


_RANGES = {
    "epochs": (1, None),
    "batch_size": (1, None),
    "image_size": (16, None),
    "seed": (0, 2**31 - 1),
    "val_images": (0, None),
    "checkpoint_steps": (0, None),
    "progress_seconds": (0, None),
    "frozen_fraction": (0, 1),
    "learning_rate": (0, None),
    "momentum": (0, 1),
    "weight_decay": (0, None),
    "new_layer_multiplier": (0, None),
    "bias_multiplier": (0, None),
    "schedule_power": (0, None),
    "view_scale": (0.01, 1),
    "view_size": (0, None),
    "er_weight": (0, None),
    "ecr_weight": (0, None),
    "min_pooling_weight": (0, None),
    "min_pooling_rate": (0, 1),
    "ecr_pooling_rate": (0, 1),
    "contrast_weight": (0, None),
    "background_threshold": (0, 1),
    "cpu_replicas": (1, 64),
}


def check_options(options):
    """Raises a `UserError` for a value out of range, or for two that contradict one another."""
    for name, (low, high) in _RANGES.items():
        value = getattr(options, name)
        if not (low <= value and (high is None or value <= high)):
            rule = f"at least {low}" if high is None else f"in [{low}, {high}]"
            raise UserError(f"--{name} must be {rule}. Received: {value}.")
    for field in _fields():
        choices, value = field.metadata["choices"], getattr(options, field.name)
        if choices and value not in choices:  # from a preset: argparse looks at given flags only
            raise UserError(
                f"--{field.name} must be one of {', '.join(map(str, choices))}. Received: {value}."
            )
    limits = options.long_side
    if limits is not None and not 0 < limits[0] <= limits[1]:
        raise UserError(f"--long_side must be LOW,HIGH with 0 < LOW <= HIGH. Received: {_shown(limits)}.")
    if options.strategy == "multi_worker" and not (options.output and options.data):
        raise UserError("--strategy multi_worker needs --data and --output that every worker can reach.")

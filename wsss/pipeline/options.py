"""The flags of `pipelines/pseudo_labels.py`, and what is filled in from the trained run."""

import argparse
import dataclasses
from dataclasses import dataclass

from wsss.common import cli, io
from wsss.common.errors import UserError

REFINEMENTS = ("pamr", "walk", "crf")
CRF_PRESETS = (
    "seam",
    "irn",
    "ppc",
    "ppc_segmentation",
    "deeplab",
    "fast",
)  # those of wsss.refine.crf.dense_crf
_NOT_RECORDED = ("output", "overwrite", "images_per_wave", "max_error_rate", "accelerator")


@dataclass(frozen=True)
class Options:
    """The program's flags; `make_parser` says what each means."""

    model: str
    data: str
    split: str
    output: str
    scales: tuple[float, ...]
    mirror: bool
    cam: str
    max_side: int
    image_labels: str
    label_threshold: float
    background_threshold: float | str | None
    background_alpha: float | None
    refine: tuple[str, ...]
    crf_preset: str
    crf_unary: str
    affinity_model: str
    walk_beta: float | None
    walk_steps: int | None
    write: str
    output_format: str
    save_scores: bool
    previews: int
    max_batch_size: int
    images_per_shard: int
    images_per_wave: int
    max_error_rate: float
    overwrite: bool
    accelerator: str

    def __post_init__(self):
        if (self.background_threshold is None) == (self.background_alpha is None):
            raise UserError("Give one of `--background_threshold` and `--background_alpha`.")
        if self.write != "masks" and "crf" in self.refine:
            raise UserError(f"`--write {self.write}` has a CRF of its own; leave crf out of `--refine`.")
        if ("walk" in self.refine) != bool(self.affinity_model):
            raise UserError("`--refine walk` and `--affinity_model` go together: give both or neither.")

    @property
    def predictor(self):
        """`(name, value)` pairs, the keyword arguments of `CamPredictor`."""
        return tuple((name, getattr(self, name)) for name in ("scales", "mirror", "cam", "max_side"))

    def recorded(self):
        """The options that the results depend on, as JSON gives them back."""
        values = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name not in _NOT_RECORDED
        }


def make_parser():
    """The parser of the program's own flags; Beam parses the rest."""
    parser = cli.Parser(
        prog="pseudo_labels.py",
        description="Makes pseudo labels with a trained model: bare, with the newest run under ./runs, of "
        "the data that it was trained on. Beam's own flags (--runner, --direct_num_workers, …) may be added.",
    )
    group = parser.add_argument_group("what goes in and out")
    add = group.add_argument
    add("--model", default="", help="run directory or .keras file; default: the newest run under ./runs")
    add("--data", default="", help="collection, TFDS name or folder of images; default: the run's own")
    add("--split", default="", help="split of the collection; default: the one trained on")
    add("--output", default="", help="folder, local or gs://; default: pseudo_labels/SPLIT beside the model")
    add(
        "--output_format",
        choices=("png", "tfrecord"),
        default="png",
        help="a PNG a mask (default), or shards",
    )
    add("--save_scores", action="store_true", help="write the scores of the present classes too, float16")
    add("--previews", type=cli.non_negative_int, default=12, help="pictures for report.html, default 12")

    group = parser.add_argument_group("class activation maps")
    add = group.add_argument
    add(
        "--scales",
        type=_scales,
        default=(1.5,),
        help="factors on the size at which an image is seen; default 1.5, whose masks are as good as those "
        "of the publications' 0.5,1,1.5,2, at 0.3 of the cost (benchmarks/RESULTS.md)",
    )
    add("--no_mirror", dest="mirror", action="store_false", help="do not look at mirrored images")
    add(
        "--cam",
        choices=("refined_cam", "cam"),
        default="refined_cam",
        help="map read out; default refined_cam",
    )
    add(
        "--max_side",
        type=cli.non_negative_int,
        default=1024,
        help="pixels; larger images are shrunk, default 1024, 0 = never",
    )

    group = parser.add_argument_group("masks")
    add = group.add_argument
    add(
        "--image_labels",
        choices=("truth", "predicted"),
        default="truth",
        help="classes of an image: the collection's tags (default), or what the classifier finds",
    )
    add(
        "--label_threshold",
        type=cli.unit_interval,
        default=0.5,
        help="least score of a predicted class, default 0.5",
    )
    add(
        "--background_threshold",
        type=_share_or_auto,
        help="score of the background, in [0, 1], default 0.2; auto: the mean of the strongest class scores",
    )
    add("--background_alpha", type=cli.positive_float, help="instead: exponent of (1 - max score)^alpha, > 0")
    add("--refine", type=_refinements, default=(), help="none (default), or some of pamr,walk,crf in order")
    add("--crf_preset", choices=CRF_PRESETS, help="constants of the CRF; default: ppc, or seam with an alpha")
    add(
        "--crf_unary",
        choices=("labels", "probabilities"),
        help="the CRF's evidence: the best label of a pixel, with confidence 0.7 (default with a constant "
        "background), or the scores (default with an alpha)",
    )
    add(
        "--affinity_model",
        default="",
        help="of walk: run directory or .keras file of `--model affinity` or `irn`",
    )
    add(
        "--walk_beta",
        type=cli.positive_float,
        help="exponent of the affinities, > 0; default: 8, or 10 with an IRN",
    )
    add("--walk_steps", type=cli.non_negative_int, help="length of the walk; default: 64, or 256 with an IRN")
    add(
        "--write",
        choices=("masks", "affinity_labels", "irn_labels"),
        default="masks",
        help="masks (default), or confident labels to train an affinity network on, 255 elsewhere: CRF at "
        "alpha 4 and 24 (AffinityNet's), or at background scores 0.30 and 0.05 (IRN's)",
    )

    group = parser.add_argument_group("the job")
    add = group.add_argument
    add("--overwrite", action="store_true", help="remove what is in the output folder and make it anew")
    add(
        "--max_error_rate",
        type=cli.unit_interval,
        default=0.25,
        help="share of failed images that fails the job, default 0.25",
    )
    add("--max_batch_size", type=cli.positive_int, default=16, help="most images in a batch, default 16")
    add(
        "--images_per_shard",
        type=cli.positive_int,
        default=64,
        help="images of a folder in a shard, default 64",
    )
    add(
        "--images_per_wave",
        type=cli.non_negative_int,
        default=0,
        help="run locally: images until finished shards are marked; 256, or 2048 with worker processes",
    )
    add(
        "--accelerator", default="", help="Beam's resource hint for inference, such as type:nvidia-l4;count:1"
    )
    return parser


def fill_in(namespace, run):
    """`Options`, with what was left to the run filled in."""
    values = vars(namespace)
    if values["background_threshold"] is None and values["background_alpha"] is None:
        values["background_threshold"] = 0.2
    if values["background_alpha"] is None and values["write"] == "masks":
        crf = {"crf_preset": "ppc", "crf_unary": "labels"}
    else:
        crf = {"crf_preset": "seam", "crf_unary": "probabilities"}
    values.update({name: values[name] or value for name, value in crf.items()})
    values["model"] = run.model_path
    values["data"] = values["data"] or _data_of(run)
    values["split"] = values["split"] or run.split or "train"
    values["output"] = values["output"] or io.join(run.folder, "pseudo_labels", values["split"])
    return Options(**values)


def _data_of(run):
    """What the model was trained on."""
    if not run.data:
        raise UserError(f"`--data` is missing, and {run.folder} does not say what the model was trained on.")
    if not io.exists(io.join(run.data, "dataset_info.json")):
        raise UserError(f"`--data` is missing, and {run.data}, what the model was trained on, is not here.")
    return run.data


def _scales(text):
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale <= 16 for scale in scales):
        raise argparse.ArgumentTypeError(
            f"must be numbers in (0, 16] with commas between, such as 0.5,1,1.5,2. Received: {text}"
        )
    return scales


def _refinements(text):
    stages = () if text == "none" else tuple(text.split(","))
    if not set(stages) <= set(REFINEMENTS) or list(stages) != sorted(set(stages), key=REFINEMENTS.index):
        raise argparse.ArgumentTypeError(
            f"must be none, or some of {','.join(REFINEMENTS)} in that order. Received: {text}"
        )
    return stages


def _share_or_auto(text):
    return text if text == "auto" else cli.unit_interval(text)

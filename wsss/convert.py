"""`python -m wsss.convert SRC DST`: published weights as a Keras model.

SRC is a PyTorch state dict (`.pth`) of SEAM, Pixel-to-Prototype Contrast, AffinityNet, IRN or torchvision's
ResNet-50 and -101, or MXNet's `.params` of ResNet-38d. It is read without PyTorch and MXNet, and nothing in
it is executed (`wsss.weights.pytorch`). DST is a `.keras` file, which loads by
`keras.models.load_model`, or a `.weights.h5` file for a network that exists already, as in
`python -m wsss.train --backbone resnet38 --backbone_weights FILE`.
"""

import dataclasses
import logging
import tempfile
from pathlib import Path

from wsss.common import cli, io
from wsss.common.errors import UserError, program
from wsss.common.output_folder import same_place
from wsss.common.tf_import import import_tensorflow
from wsss.data.dataset import check_class_count

logger = logging.getLogger(__name__)
ENDINGS = (".keras", ".weights.h5")
NETWORKS = (
    *("seam", "pixel2prototype", "affinity", "irn_cam", "irn_edge"),
    *("resnet38", "resnet50", "resnet101"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """What `python -m wsss.convert` can be told."""

    source: str = cli.option(cli.REQUIRED, "file to read, local or gs://", metavar="SRC", positional=True)
    destination: str = cli.option(
        cli.REQUIRED, "file to write: .keras or .weights.h5", metavar="DST", positional=True
    )
    network: str = cli.option(
        "auto", "whose weights they are; auto: by the names of the tensors", choices=("auto", *NETWORKS)
    )
    overwrite: bool = cli.option(False, "replace DST if it exists")

    def check(self):
        if not self.destination.endswith(ENDINGS):
            raise UserError(f"DST must end in {' or '.join(ENDINGS)}. Received: {self.destination}.")
        if same_place(self.source, self.destination):
            raise UserError(f"DST must be another file than SRC. Received: {self.destination}.")
        if io.exists(self.destination) and not self.overwrite:
            raise UserError(f"{self.destination} exists already; give --overwrite to replace it.")


def parse_options(argv=None) -> Options:
    """Options from a command line.

    Raises:
        UserError: a destination that cannot be written.
    """
    return cli.parse(
        Options,
        argv,
        prog="python -m wsss.convert",
        description="Turns published weights (PyTorch .pth, MXNet .params) into a Keras file.",
    )


@program
def main(argv=None) -> int:
    """Runs the program and returns its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    convert(parse_options(argv))
    return 0


def convert(options: Options) -> None:
    """Reads SRC, fills the network, writes DST.

    Raises:
        UserError: SRC is missing, damaged, of another kind, or lacks a tensor; the message names the first.
    """
    import_tensorflow()
    from wsss.weights.published import build_network, count_classes, identify

    try:
        tensors = read_published_tensors(options.source)
        name = identify(tensors) if options.network == "auto" else options.network
        classes = count_classes(name, tensors)
        model = build_network(name, classes)
        left_over = load_tensors_of(name, model, tensors)
    except UserError as error:
        raise UserError(f"{options.source}: {error}.") from error
    check_class_count(classes or 0, options.source)
    if left_over:
        logger.info("%d tensors are not used, the first is `%s`", len(left_over), left_over[0])
    save(model, options.destination)
    logger.info("%s: %s, %d weights", options.destination, name, model.count_params())


def read_published_tensors(path):
    """Name -> array of a published file, by its PyTorch names.

    Raises:
        UserError: there is no such file, or it is not one of those kinds.
    """
    from wsss.weights import read_tensors
    from wsss.weights.mxnet import from_mxnet

    try:
        with io.open_read(path) as stream:
            return from_mxnet(read_tensors(stream))
    except FileNotFoundError:
        raise UserError("there is no such file") from None
    except OSError as error:
        raise UserError(f"it cannot be read ({error})") from error


def load_tensors_of(name, model, tensors):
    """Fills `model`; says of which network a missing tensor is."""
    from wsss.weights.mapping import load_tensors

    try:
        return load_tensors(model, tensors)
    except UserError as error:
        raise UserError(f"{error}, in a file of the network {name!r}") from error


def save(model, destination):
    """Writes a model or its weights, by the ending of the name, wherever it lies."""
    ending = next(ending for ending in ENDINGS if destination.endswith(ending))
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / f"model{ending}"
        if ending == ".keras":
            model.save(local)
        else:
            model.save_weights(local)
        try:
            io.copy(local, destination)
        except OSError as error:
            raise UserError(f"{destination} cannot be written ({error}).") from error


if __name__ == "__main__":
    raise SystemExit(main())

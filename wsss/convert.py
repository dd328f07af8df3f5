"""`python -m wsss.convert SRC DST`: published weights as a Keras model.

SRC is a PyTorch state dict (`.pth`) of SEAM, Pixel-to-Prototype Contrast, AffinityNet, IRN or torchvision's
ResNet-50 and -101, or MXNet's `.params` of ResNet-38d. It is read without PyTorch and MXNet, and nothing in
it is executed (`wsss.weights.pytorch`). DST is a `.keras` file, which loads by
`keras.models.load_model`, or a `.weights.h5` file for a network that exists already, as in
`python -m wsss.train --backbone resnet38 --backbone_weights FILE`.
"""

import dataclasses
import logging

from wsss.common import cli, io
from wsss.common.errors import UserError, program
from wsss.common.output_folder import same_place
from wsss.common.tf_import import import_tensorflow
from wsss.weights.conversion import NETWORKS, SUFFIXES, convert_weights

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionOptions(cli.Options):
    """Options of `python -m wsss.convert`."""

    source: str = cli.option(cli.REQUIRED, "file to read, local or gs://", metavar="SRC", positional=True)
    destination: str = cli.option(
        cli.REQUIRED, "file to write: .keras or .weights.h5", metavar="DST", positional=True
    )
    network: str = cli.option(
        "auto", "whose weights they are; auto: by the names of the tensors", choices=("auto", *NETWORKS)
    )
    overwrite: bool = cli.option(False, "replace DST if it exists")

    def check(self) -> None:
        if not self.destination.endswith(SUFFIXES):
            raise UserError(f"DST must end in {' or '.join(SUFFIXES)}. Received: {self.destination}.")
        if same_place(self.source, self.destination):
            raise UserError(f"DST must be another file than SRC. Received: {self.destination}.")
        if io.exists(self.destination) and not self.overwrite:
            raise UserError(f"{self.destination} exists already; give --overwrite to replace it.")


def parse_options(argv: list[str] | None = None) -> ConversionOptions:
    """Options from a command line.

    Raises:
        UserError: a destination that cannot be written.
    """
    return cli.parse(
        ConversionOptions,
        argv,
        prog="python -m wsss.convert",
        description="Turns published weights (PyTorch .pth, MXNet .params) into a Keras file.",
    )


@program
def main(argv: list[str] | None = None) -> int:
    """Converts a file; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parse_options(argv)
    import_tensorflow()
    result = convert_weights(options.source, options.destination, options.network)
    if result.unused:
        logger.info("%d tensors are not used, the first is `%s`", len(result.unused), result.unused[0])
    logger.info("%s: %s, %d weights", options.destination, result.network, result.parameters)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

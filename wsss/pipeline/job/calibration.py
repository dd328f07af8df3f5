"""The background threshold that a model was calibrated with, kept in its run directory for new images."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from apache_beam.io.filesystem import BeamIOError

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.output_folder import read_marker
from wsss.common.schema import Fields
from wsss.pipeline.trained_run import TrainedRun

FILE = "calibration.json"
CONSTANT = 0.2  # score of the background where nothing else is known


@dataclass(frozen=True)
class Calibration:
    """The content of `calibration.json`.

    Attributes:
        model_hash: of the model that the threshold is for; a model that was trained further has another.
        cam: the map that it is for, `refined_cam` or `cam`.
        threshold: the background's score, in [0, 1].
        data, split: the images that it was chosen from.
    """

    model_hash: str
    cam: str
    threshold: float
    data: str
    split: str

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Calibration":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, "Remove it, or pass `--background_threshold`.")
        threshold = fields.get("threshold", float)
        if not 0 <= threshold <= 1:
            raise fields.error("`threshold` must lie in [0, 1]")
        hash_, cam, data, split = (fields.get(name, str) for name in ("model_hash", "cam", "data", "split"))
        return cls(hash_, cam, threshold, data, split)


class KnownThreshold(NamedTuple):
    """The background threshold for new images.

    Attributes:
        threshold: the background's score, in [0, 1].
        line: in one line which it is and where it comes from.
        is_calibrated: whether it was chosen from images; else it is a constant.
    """

    threshold: float
    line: str
    is_calibrated: bool


def calibrated_threshold(run: TrainedRun, cam: str) -> KnownThreshold:
    """The background threshold for new images.

    Args:
        run: the trained model.
        cam: the map that is read out.

    Returns:
        That of the run's `calibration.json`, or 0.2 without one for this model and map.

    Raises:
        UserError: `calibration.json` is damaged.
    """
    path = io.join(run.folder, FILE)
    reason = f"there is no {path}"
    if io.exists(path):
        found = Calibration.from_json(io.read_json(path), path)
        if found.model_hash != run.model_hash:
            reason = f"{path} is of another model"
        elif found.cam != cam:
            reason = f"{path} is of the map `{found.cam}`, not of `{cam}`"
        else:
            origin = f"calibrated on {found.data}, split {found.split} ({path})"
            line = f"Background threshold: {found.threshold:.2f}, {origin}."
            return KnownThreshold(found.threshold, line, True)
    line = (
        f"Background threshold: {CONSTANT}, a constant: {reason}. "
        "`pseudo_labels --background_threshold auto` on the training images calibrates it."
    )
    return KnownThreshold(CONSTANT, line, False)


def keep_calibration(run: TrainedRun, calibration: Calibration, announce: Callable[[str], None]) -> None:
    """Writes `calibration.json` into a run directory, where new images find it.

    A folder that no training run wrote, such as one with a lone `.keras` file, is left as it is, and so is a
    file of that name that is not ours.

    Args:
        run: the trained model.
        calibration: of this model.
        announce: function of a line of text, called with what was done or why not.
    """
    path, not_kept = io.join(run.folder, FILE), "The background threshold was not kept for new images"
    try:
        marker = read_marker(run.folder)
        if marker is None or marker.kind != "run":
            return
        if io.exists(path) and Calibration.from_json(io.read_json(path), path) == calibration:
            return
        io.write_json(path, asdict(calibration))
    except UserError as error:  # the file is somebody else's, or damaged
        announce(f"{not_kept}: {error}")
    except (OSError, BeamIOError) as error:  # of a run that may only be read, say
        announce(f"{not_kept}: {path} cannot be written ({error}).")
    else:
        announce(f"Background threshold kept for new images in {path}.")

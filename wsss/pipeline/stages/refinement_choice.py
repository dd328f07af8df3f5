"""The refinement of a collection (`--refine auto`), from a sample of its images and without any mask.

Each candidate refines the sample, and three quantities are measured that need no truth:

- harm: masks that end up with one single value, or without a class that they had;
- fit to the image: the fraction of the variance of the colors that the labels explain. A refinement that does
  not raise it does not follow the image;
- fit to the CAMs: the mean class score, before any refinement, of the foreground less that of the background.
  Any refinement gives some of it for edges; the less, the better.

Of the candidates that do no harm, fit the images better than no refinement and keep most of the fit to the
CAMs, the one that keeps most of it is taken; of few images, the first. See benchmarks/refinement_choice.py.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.schema import Fields
from wsss.data.images import decode_image
from wsss.pipeline.stages.describe import COLLAPSED, LOST, flags_of_refinement, score_contrast
from wsss.pipeline.stages.predict import CamSettings
from wsss.pipeline.stages.refine import RefinementSettings, ScoredImage, Unrefined, refinement_stages
from wsss.pipeline.stages.scores import ScoreImages, StoredScores

CANDIDATES: dict[str, tuple[str, ...]] = {"none": (), "pamr": ("pamr",), "crf": ("crf",), "walk": ("walk",)}
# Most masks, as fractions of the images, that a refinement may flatten or take a class from, and the least
# fraction of the fit to the CAMs that it must keep.
MOST_COLLAPSED, MOST_LOST, LEAST_KEPT = 0.05, 0.2, 0.75
LEAST_COMPARED = 30  # images; with fewer, the fit to the CAMs does not distinguish refinements
_MICRO = 1_000_000


@dataclass(frozen=True)
class RefinementEvidence:
    """What a refinement does to the masks of a sample; fractions and means over the images with a class.

    Attributes:
        images: number of them.
        collapsed: fraction left with one single value where there were several.
        class_lost: fraction that lost a class.
        image_fit: mean fraction of the variance of an image's colors that the labels of its mask explain.
        cam_fit: mean class score, before the refinement, of the foreground less that of the background.
    """

    images: int
    collapsed: float
    class_lost: float
    image_fit: float
    cam_fit: float

    @classmethod
    def of(cls, counts: np.ndarray) -> "RefinementEvidence":
        """From the sum of `measure_refinement` over the sample."""
        images, *sums = (int(count) for count in counts)
        collapsed, lost, image_fit, cam_fit = (total / _MICRO / max(1, images) for total in sums)
        return cls(images, round(collapsed, 4), round(lost, 4), round(image_fit, 4), round(cam_fit, 4))


@dataclass(frozen=True)
class RefinementChoice:
    """The content of `refinement.json`.

    Attributes:
        chosen: name of a candidate.
        reason: why, in one line.
        evidence: by the name of each candidate.
    """

    chosen: str
    reason: str
    evidence: dict[str, dict[str, float]]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the chosen refinement."""
        return CANDIDATES[self.chosen]

    @classmethod
    def from_json(cls, value: Any, path: str) -> "RefinementChoice":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, "Remove it: the refinement is then chosen anew.")
        chosen = fields.get("chosen", str)
        if chosen not in CANDIDATES:
            raise fields.error(f"`chosen` must be one of {', '.join(CANDIDATES)}")
        return cls(chosen, fields.get("reason", str), fields.get("evidence", dict))


def choose_refinement(evidence: Mapping[str, RefinementEvidence]) -> tuple[str, str]:
    """Name of the refinement to take, and why.

    Args:
        evidence: by the name of each candidate, `none` among them, those that change the masks least first.
    """
    plain = evidence["none"]
    kept: dict[str, float] = {}
    refused = []
    for name, found in evidence.items():
        if name == "none":
            continue
        fault = _fault(found, plain)
        if fault:
            refused.append(f"{name} {fault}")
        else:
            kept[name] = found.cam_fit / plain.cam_fit
    because = f" ({'; '.join(refused)})" if refused else ""
    if not kept:
        return "none", f"every refinement does harm or does not follow the images{because}"
    if plain.images < LEAST_COMPARED:
        return next(iter(kept)), f"{plain.images} images are too few to compare, and it does no harm{because}"
    best = max(kept, key=lambda name: kept[name])
    return best, (
        f"its labels explain {100 * evidence[best].image_fit:.1f} % of the colors' variance, without it "
        f"{100 * plain.image_fit:.1f} %, and it keeps {100 * kept[best]:.0f} % of the CAMs' contrast{because}"
    )


def _fault(found: RefinementEvidence, plain: RefinementEvidence) -> str:
    """Why a refinement is not taken; empty where nothing speaks against it."""
    if not found.images or plain.cam_fit <= 0:
        return "was not measured: no mask of the sample has foreground and background"
    if found.collapsed > MOST_COLLAPSED:
        return f"leaves {100 * found.collapsed:.0f} % of the masks with one single value"
    if found.class_lost > MOST_LOST:
        return f"takes a class from {100 * found.class_lost:.0f} % of the masks"
    if found.image_fit <= plain.image_fit:
        return "does not make the masks follow the images"
    if found.cam_fit < LEAST_KEPT * plain.cam_fit:
        return f"keeps only {100 * max(0.0, found.cam_fit / plain.cam_fit):.0f} % of the CAMs' contrast"
    return ""


class ChooseRefinement(beam.PTransform):
    """Chooses among refinements on `InputShard`s, and writes a `RefinementChoice` to a JSON file.

    Images that fail are left out here; they are listed when they are labeled.

    Args:
        source: how scores are computed, or where they are stored.
        candidates: name to `RefinementSettings`.
        path: of the file.
    """

    def __init__(
        self,
        source: CamSettings | StoredScores,
        candidates: Mapping[str, RefinementSettings],
        path: str,
    ):
        super().__init__()
        self._source, self._candidates, self._path = source, dict(candidates), path
        self.with_resource_hints(**source.resource_hints)  # of PAMR and walk too

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        scored = shards | ScoreImages(self._source)
        counts = [scored | name >> _Measure(name, each) for name, each in self._candidates.items()]
        zeros = shards.pipeline | beam.Create([(name, np.zeros(5, np.int64)) for name in self._candidates])
        sums = (*counts, zeros) | beam.Flatten() | beam.CombinePerKey(sum)
        whole = sums | beam.combiners.ToDict()
        return whole | "WriteChoice" >> beam.Map(_write, tuple(self._candidates), self._path)


class _Measure(beam.PTransform):
    """`ScoredImage`s to pairs of a candidate's name and `measure_refinement`."""

    def __init__(self, name, settings):
        super().__init__()
        self._name, self._settings = name, settings

    def expand(self, scored: beam.PCollection) -> beam.PCollection:
        elements = scored
        for stage in refinement_stages(self._settings):
            elements |= stage
        images = elements | "KeepImages" >> beam.Filter(lambda element: isinstance(element, ScoredImage))
        return images | "Measure" >> beam.Map(_measure, self._name)


def _measure(scored, name):
    record = scored.input.record
    return name, measure_refinement(scored, decode_image(record.image_bytes, record.orientation))


def measure_refinement(scored: ScoredImage, image: np.ndarray) -> np.ndarray:
    """What an image adds to a `RefinementEvidence`; integers, so that the order of addition is of no matter.

    Args:
        scored: `ScoredImage` with a mask.
        image: uint8 `(height, width, 3)`.

    Returns:
        int64 `(5,)`: images with a class, and in millionths collapsed, class lost, image fit, CAM fit.
    """
    if not scored.class_ids or scored.mask is None:
        return np.zeros(5, np.int64)
    before = scored.unrefined or Unrefined(scored.mask, scored.scores.max(axis=0))
    flags = set(flags_of_refinement(before.mask, scored.mask))
    parts = (
        COLLAPSED in flags,
        LOST in flags,
        explained_variance(image, scored.mask),
        score_contrast(before.strongest, scored.mask) or 0.0,
    )
    return np.array([1, *(round(float(part) * _MICRO) for part in parts)], np.int64)


def explained_variance(image: np.ndarray, mask: np.ndarray) -> float:
    """Fraction of the variance of an image's colors that lies between the labels of a mask, in [0, 1].

    Args:
        image: uint8 `(height, width, 3)`.
        mask: uint8 `(height, width)`; 255 is left out.
    """
    labels = mask.ravel()
    known = labels != IGNORE
    colors, labels = image.reshape(-1, 3)[known].astype(np.float64), labels[known]
    if not len(labels):
        return 0.0
    colors -= colors.mean(axis=0)
    sizes = np.bincount(labels)
    sums = np.stack([np.bincount(labels, colors[:, channel]) for channel in range(3)], axis=1)
    between = (np.square(sums[sizes > 0]).sum(axis=1) / sizes[sizes > 0]).sum()
    total = np.square(colors).sum()
    return float(between / total) if total else 0.0


def _write(counts, names, path):
    evidence = {name: RefinementEvidence.of(counts[name]) for name in names}
    chosen, reason = choose_refinement(evidence)
    found = {name: asdict(each) for name, each in evidence.items()}
    io.write_json(path, asdict(RefinementChoice(chosen, reason, found)))

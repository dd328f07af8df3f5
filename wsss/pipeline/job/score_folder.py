"""The scores that an earlier job stored (`--save_scores`), from which masks are made anew without a model."""

from collections.abc import Iterable
from dataclasses import dataclass

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.output_folder import read_marker
from wsss.pipeline.job.settings import JobSettings
from wsss.pipeline.options import MASK_OPTIONS
from wsss.pipeline.output import SCORES, LabelSettings, Layout
from wsss.pipeline.stages.manifest import Manifest, read_manifests
from wsss.pipeline.stages.read import InputShard
from wsss.pipeline.stages.scores import has_failed_later

_PLACES = ("model", "data")  # paths: model and images are known by their content


@dataclass(frozen=True)
class ScoreFolder:
    """A folder of pseudo labels with scores.

    Attributes:
        layout: of the folder.
        made_with: what its labels were made with.
        manifests: of its finished shards, by the shard's name.
    """

    layout: Layout
    made_with: LabelSettings
    manifests: dict[str, Manifest]

    @property
    def path(self) -> str:
        """The folder."""
        return self.layout.root

    def check(self, shards: Iterable[InputShard], data: str) -> None:
        """Checks that there are scores of all shards.

        Raises:
            UserError: images have changed since, or are not labeled yet.
        """
        for shard in shards:
            manifest = self.manifests.get(shard.name)
            if manifest is None:
                why = f"the shard {shard.name} of {data} is not labeled there"
            elif manifest.source != shard.source:
                why = f"images or tags of the shard {shard.name} of {data} are others than those"
            elif not manifest.scores:
                why = f"those of the shard {shard.name} were written by an earlier version of wsss"
            else:
                continue
            raise UserError(
                f"The scores in {self.path} do not fit: {why}. Label with the model again: "
                "`python -m wsss.pseudo_labels --save_scores`."
            )

    def usable(self, shards: Iterable[InputShard]) -> frozenset[str]:
        """Names of the shards all of whose images a model would give the scores that are stored."""
        files = set(io.list_files(io.join(io.escape(self.path), SCORES, "**")))
        names = set()
        for shard in shards:
            manifest = self.manifests.get(shard.name)
            if manifest is None or manifest.source != shard.source or not manifest.scores:
                continue
            is_final = not any(failure.transient for failure in manifest.tally.failures)
            if is_final and not has_failed_later(manifest) and files.issuperset(self._files(manifest)):
                names.add(shard.name)
        return frozenset(names)

    def _files(self, manifest):
        return map(self.layout.scores, manifest.image_ids)


def open_scores(path: str) -> ScoreFolder:
    """The scores in a folder of pseudo labels.

    Raises:
        UserError: there are none.
    """
    made_with = settings_of_scores(path)
    return ScoreFolder(Layout(path), made_with, read_manifests(Layout(path)))


def settings_of_scores(path: str) -> LabelSettings:
    """What the labels of a folder with scores were made with; no manifest is read.

    Raises:
        UserError: there are no scores.
    """
    marker, options = read_marker(path), Layout(path).path("options.json")
    if marker is None or marker.kind != "pseudo_labels" or not io.exists(options):
        raise UserError(f"{path} holds no pseudo labels that wsss wrote. Name the output of `pseudo_labels`.")
    made_with = LabelSettings.from_json(io.read_json(options), options)
    if made_with.options.get("save_scores") is not True:
        raise UserError(
            f"{path} holds no scores: its labels were made without `--save_scores`. Label with it once: "
            "masks can then be made anew without the model."
        )
    return made_with


def reusable_scores(settings: JobSettings) -> ScoreFolder | None:
    """The scores in the output of a job that changes only what masks are made with; None without any.

    Labels that are to be replaced by the very same ones are wanted anew, from the model.
    """
    output = settings.output
    if not output.overwrite:
        return None
    try:
        made_with = settings_of_scores(output.path)
        recorded = made_with.options
        changed = {
            name
            for name, value in output.recorded.items()
            if name not in _PLACES and name in recorded and recorded[name] != value
        }
        is_same_model = made_with.model_hash == settings.model.model_hash
        can_be_reused = is_same_model and changed and changed.issubset(MASK_OPTIONS)
        return open_scores(output.path) if can_be_reused else None
    except UserError:
        return None

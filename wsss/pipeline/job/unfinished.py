"""`job.json`: what the results of a job need besides its manifests, so that another program can gather them.

A job on a cluster outlives the program that began it: with `--detach`, from a template, or where that program
was stopped. `python -m wsss.report OUTPUT` then does what is left to do.
"""

from dataclasses import asdict, dataclass
from typing import Any

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.schema import Fields
from wsss.pipeline.output import PLANS, LabelSettings, Layout
from wsss.pipeline.plan import remove_retired
from wsss.pipeline.stages.manifest import stream_manifests
from wsss.pipeline.stages.refinement_choice import RefinementChoice
from wsss.pipeline.summary import LabelResult, write_results

_FILE = "job.json"


@dataclass(frozen=True)
class UnfinishedJob:
    """The content of `job.json`.

    Attributes:
        shards: names of all shards of the job, in order.
        name: of the collection, for TFRecord output.
        rule: how the background's score was chosen: `auto`, `calibrated`, or by the user.
        threshold: that score, or None where it is no constant.
    """

    shards: tuple[str, ...]
    name: str
    rule: float | str | None = None
    threshold: float | None = None

    @classmethod
    def from_json(cls, value: Any, path: str) -> "UnfinishedJob":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, "The command that began the job writes it anew.")
        rule = value.get("rule")
        return cls(
            fields.texts("shards"), fields.get("name", str), rule, fields.get("threshold", float, None)
        )

    def keep(self, layout: Layout) -> None:
        """Writes the file."""
        io.write_json(layout.path(_FILE), asdict(self))

    def summarize(
        self, layout: Layout, made_with: LabelSettings, choice: RefinementChoice | None
    ) -> LabelResult:
        """Writes the results of all shards, and removes what was kept for that and outputs of images gone.

        Args:
            layout: the output's `Layout`.
            made_with: what the labels were made with.
            choice: the refinement that `--refine auto` chose, or None.

        Raises:
            UserError: shards are not finished.
        """
        found = set(layout.manifest_paths())
        missing = sum(layout.manifest(shard) not in found for shard in self.shards)
        if missing:
            raise UserError(
                f"{layout.root} lacks {missing} of {len(self.shards)} shards: the job runs, or has failed. "
                "Gather the results when it has ended; the command that began it does what is missing."
            )
        io.remove_tree(layout.path(PLANS))
        remove_retired(layout, stream_manifests(layout))
        result = write_results(
            layout,
            stream_manifests(layout, self.shards),
            made_with,
            name=self.name,
            threshold=self.threshold,
            rule=self.rule,
            choice=choice,
        )
        io.remove(layout.path(_FILE))
        return result


def gather_results(layout: Layout) -> LabelResult | None:
    """Writes the results of a job whose program did not wait for it; None where there is no such job.

    Raises:
        UserError: the job has not ended well, or what it left is damaged.
    """
    path = layout.path(_FILE)
    if not io.exists(path):
        return None
    job = UnfinishedJob.from_json(io.read_object(path), path)
    options, chosen = layout.path("options.json"), layout.path("refinement.json")
    made_with = LabelSettings.from_json(io.read_json(options), options)
    is_chosen = made_with.options["refine"] == ["auto"]
    choice = RefinementChoice.from_json(io.read_json(chosen), chosen) if is_chosen else None
    return job.summarize(layout, made_with, choice)

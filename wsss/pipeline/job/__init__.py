"""A pseudo-label job: settings of each step, inputs, choices from the images, and the steps in order."""

from wsss.pipeline.job.labeling import make_pseudo_labels

__all__ = ["make_pseudo_labels"]

"""Runs a transform in this process and hands back its outputs."""

from collections import defaultdict

import apache_beam as beam

from wsss.pipeline.runner import make_pipeline

_caught = defaultdict(list)


def outputs_of(transform, elements, *tags):
    """Lists of what comes out of a transform under each tag, in that order."""
    _caught.clear()
    with make_pipeline() as pipeline:
        outputs = pipeline | beam.Create(elements) | transform
        for tag in tags:
            _ = outputs[tag] | tag >> beam.Map(_catch, tag)
    return [_caught[tag] for tag in tags]


def _catch(element, tag):
    """Of this module and so pickled by its name: what a closure appends to would be a copy."""
    _caught[tag].append(element)

"""Runs a transform in this process and hands back its outputs."""

import apache_beam as beam

from wsss.pipeline.dead_letter import Failure
from wsss.pipeline.execution.runner import make_pipeline

_caught = []


def outputs_of(transform, elements):
    """Lists of what comes out of a transform: the failures, last, and all else before."""
    _caught.clear()
    with make_pipeline() as pipeline:
        given = pipeline | beam.Create([None]) | "Given" >> beam.FlatMap(lambda _: elements)
        _ = given | transform | "Catch" >> beam.Map(_catch)
    failures = [element for element in _caught if isinstance(element, Failure)]
    return [element for element in _caught if not isinstance(element, Failure)], failures


def _catch(element):
    """Of this module and so pickled by its name: what a closure appends to would be a copy."""
    _caught.append(element)

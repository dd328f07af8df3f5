"""The whole graph: shards of images to pseudo labels on disk, a manifest a shard."""

import apache_beam as beam

from wsss.common import io
from wsss.pipeline.dead_letter import FAILURES, with_dead_letter
from wsss.pipeline.stages.predict import PredictCAM
from wsss.pipeline.stages.read import ReadBatches
from wsss.pipeline.stages.score import AddTallies, Tally, tally_image
from wsss.pipeline.stages.write import WriteImages, WriteRecords


class LabelShards(beam.PTransform):
    """`InputShard`s to pseudo labels on disk; gives the names of the shards that are done.

    Args:
        collection: the `Collection` that is read, or None for a folder of images.
        layout: the `Layout` of the output.
        handler: a `CamModelHandler`.
        image_labels, label_threshold: see `PredictCAM`.
        stages: PTransforms from `ImageCams` to `ScoredImage`s with a mask, in order; each gives `results` and
            `failures`.
        classes: number of classes with the background.
        record_files: dict of shard to file name, for TFRecord output; None writes PNGs.
        save_scores: whether scores are written.
        batch_size: images in a batch, at most.
        reshuffle: whether accelerator and CPU work apart, with a shuffle of image_cams between.
    """

    def __init__(
        self,
        collection,
        layout,
        handler,
        *,
        image_labels,
        label_threshold,
        stages,
        classes,
        record_files,
        save_scores,
        batch_size,
        reshuffle,
    ):
        super().__init__()
        self._read = ReadBatches(collection, batch_size)
        self._predict = PredictCAM(handler, image_labels, label_threshold)
        self._stages = tuple(stages)
        self._write = WriteImages(layout, masks=record_files is None, scores=save_scores)
        self._write_records = None if record_files is None else WriteRecords(layout, record_files)
        self._layout, self._classes, self._reshuffle = layout, classes, reshuffle

    def expand(self, shards):
        read = shards | self._read
        predicted = read.batches | self._predict
        failures = [read[FAILURES], predicted[FAILURES]]
        elements = predicted.image_cams
        if self._reshuffle:
            elements |= beam.Reshuffle()
        for stage in self._stages:
            outputs = elements | stage
            elements = outputs.results
            failures.append(outputs[FAILURES])
        counted = elements | "CountPixels" >> with_dead_letter("score", _count, self._classes)
        failures.append(counted[FAILURES])
        written = counted.results | self._write

        tallies = (
            shards | "OpenTally" >> beam.Map(lambda shard: (shard.name, Tally())),
            failures | beam.Flatten() | "TallyFailure" >> beam.Map(lambda f: (f.shard, Tally(failures=(f,)))),
            written | "TallyImage" >> beam.Map(lambda pair: (pair[0].input.shard, pair[1])),
        )
        parts = {
            "source": shards | "KeySource" >> beam.Map(lambda shard: (shard.name, shard.source)),
            "tally": tallies | "AllTallies" >> beam.Flatten() | beam.CombinePerKey(AddTallies()),
        }
        if self._write_records is not None:
            parts["records"] = (shards, written) | self._write_records
        done = parts | beam.CoGroupByKey()
        return done | "WriteManifest" >> beam.Map(_write_manifest, self._layout)


def _count(scored, classes):
    return scored, tally_image(scored, classes)


def _write_manifest(shard_and_parts, layout):
    shard, parts = shard_and_parts
    manifest = {"shard": shard, **{key: values[0] for key, values in parts.items()}}
    manifest["tally"] = parts["tally"][0].state()
    io.write_json(layout.manifest(shard), manifest)
    return shard

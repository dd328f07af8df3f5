"""TFRecord files of `tf.train.Example` messages, read and written without TensorFlow.

A worker that only checks, refines or counts thus starts in a fraction of a second. Framing and message are
TensorFlow's: a file written here is read by `tf.data.TFRecordDataset`, and the other way round.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from wsss.common import io

_MASK_DELTA = 0xA282EAD8


def read_records(path: str) -> Iterator[bytes]:
    """Yields the records (bytes) of a TFRecord file, in order.

    Raises:
        ValueError: the file is truncated or its checksums do not match.
    """
    with io.open_read(path) as stream:
        offset = 0
        while header := stream.read(12):
            body = b""
            if len(header) == 12:
                length, length_checksum = struct.unpack("<QI", header)
                if _masked_checksum(header[:8]) != length_checksum:
                    raise ValueError(f"{path} is not a TFRecord file, or is damaged at byte {offset}.")
                body = stream.read(length + 4)
            if len(header) < 12 or len(body) < length + 4:
                raise ValueError(f"{path} ends in the middle of the record at byte {offset}.")
            record = body[:-4]
            if _masked_checksum(record) != struct.unpack("<I", body[-4:])[0]:
                raise ValueError(f"{path} is damaged: the record at byte {offset} fails its checksum.")
            offset += length + 16
            yield record


def count_records(path: str) -> int:
    """Number of whole records in a local TFRecord file, from their lengths alone."""
    count = offset = 0
    size = io.size(path)
    with io.open_read(path) as stream:
        while len(header := stream.read(12)) == 12:
            offset += struct.unpack("<Q", header[:8])[0] + 16
            if offset > size:
                break
            stream.seek(offset)
            count += 1
    return count


def write_records(path: str, records: Iterable[bytes]) -> tuple[int, int]:
    """Writes a TFRecord file atomically.

    Args:
        path: where to.
        records: iterable of bytes.

    Returns:
        `(count, size)`: the number of records, and of bytes in them (as TFDS counts, without framing).
    """
    count = size = 0
    with io.open_write(path) as stream:
        for record in records:
            length = struct.pack("<Q", len(record))
            stream.write(length)
            stream.write(struct.pack("<I", _masked_checksum(length)))
            stream.write(record)
            stream.write(struct.pack("<I", _masked_checksum(record)))
            count += 1
            size += len(record)
    return count, size


def encode_example(features: Mapping[str, Any]) -> bytes:
    """Serializes a `tf.train.Example`; equal features give equal bytes.

    Args:
        features: dict of str to bytes, int, or a sequence of either.
    """
    example = _Example()
    for name, value in features.items():
        values = [value] if isinstance(value, (bytes, int)) else list(value)
        feature = example.features.feature[name]
        if values and isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def decode_example(serialized: bytes) -> dict[str, list]:
    """The features of a serialized `tf.train.Example`: dict of str to list of bytes, int or float.

    Raises:
        ValueError: the bytes are no such message.
    """
    try:
        example = _Example.FromString(serialized)
    except DecodeError as error:
        raise ValueError(f"Not a tf.train.Example ({len(serialized)} bytes): {error}.") from error
    features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        features[name] = list(getattr(feature, kind).value) if kind else []
    return features


def _masked_checksum(data):
    checksum = google_crc32c.value(data)
    return (((checksum >> 15) | (checksum << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _message_classes():
    """`tf.train.Example` from its field numbers, in a pool of its own beside TensorFlow's."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="wsss", syntax="proto3")

    def message(name, parent=file.message_type):
        return parent.add(name=name)

    def add(owner, name, number, kind, type_name=None, *, repeated=False, oneof=None):
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        owner.field.add(
            name=name, number=number, type=kind, label=label, type_name=type_name, oneof_index=oneof
        )

    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        add(message(name), "value", 1, kind, repeated=True)
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        type_name = ".wsss." + "".join(part.capitalize() for part in name.split("_"))
        add(feature, name, number, field.TYPE_MESSAGE, type_name, oneof=0)
    features = message("Features")
    entry = message("FeatureEntry", features.nested_type)
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, ".wsss.Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, ".wsss.Features.FeatureEntry", repeated=True)
    add(message("Example"), "features", 1, field.TYPE_MESSAGE, ".wsss.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("wsss.Example"))


_Example = _message_classes()

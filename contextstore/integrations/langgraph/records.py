"""What is stored of checkpoints and of their writes: bytes made by the user's serializer, in an envelope.

Rules of this module: no I/O. How a value becomes bytes is the serializer's affair alone. The envelope around them is
msgpack: arrays, whose first element is the number of the form.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from langgraph.checkpoint.base import WRITES_IDX_MAP, ChannelVersions, PendingWrite, writes_sort_key
from langgraph.checkpoint.serde.base import SerializerProtocol

Typed = tuple[str, bytes]
"""What ``dumps_typed`` returns; the kind that is usual is not written out."""
_USUAL = "msgpack"

INLINE_BYTES = 512
"""A channel value of more bytes is stored beside the checkpoint, once for all that have it."""
_BLOB_BYTES = 2**16
"""Values that are new in one checkpoint share a blob of about this size, since rows cost more than bytes."""
_SCALARS = frozenset((type(None), bool, int, float))
_FORM = 1
_COMPRESSED_BYTES = 512, 2**16
"""Records of so many bytes, from and to: less does not pay, and more would hold up a loop."""
_ZLIB = b"\x48"
"""What compressed bytes begin with, and no record does: those are arrays."""


class CheckpointRecord(msgspec.Struct, array_like=True, frozen=True):
    """A checkpoint as it is stored."""

    form: int
    namespace: bytes
    parent: str | None
    checkpoint: Typed
    """Without its id, which stands in the node's, and without those of its channel values that are not scalars."""
    metadata: Typed
    values: dict[str, Typed]
    """The other ones: small,"""
    blobs: dict[str, list[str]]
    """or to be found in these blobs."""


class WritesRecord(msgspec.Struct, array_like=True, frozen=True):
    """What one call of ``put_writes`` has stored."""

    form: int
    task_id: str
    task_path: str
    writes: list[tuple[int, str, str, bytes]]
    """Index, channel, and what ``dumps_typed`` returned."""


class Write(NamedTuple):
    """A pending write that is not deserialized yet."""

    task_id: str
    channel: str
    value: Typed


class Source(NamedTuple):
    """A checkpoint from which the next one may take over values that are stored already."""

    checkpoint_id: str
    node_id: str
    """Of its record."""
    versions: Mapping[str, str | int | float]
    blob_of: Mapping[str, str]
    """By channel."""


class Prepared(NamedTuple):
    """A checkpoint that is ready to be stored."""

    record: bytes
    blobs: dict[str, bytes]
    """Which are new, by their stamps."""
    inherits: bool
    """Whether it is whole only together with blobs of its source."""
    blob_of: dict[str, str]


_encode = msgspec.msgpack.Encoder().encode
_decode_checkpoint = msgspec.msgpack.Decoder(CheckpointRecord).decode
_decode_blob = msgspec.msgpack.Decoder(dict[str, Typed]).decode
_decode_writes = msgspec.msgpack.Decoder(WritesRecord).decode


def decode_checkpoint(stored: bytes) -> CheckpointRecord:
    return _decode_checkpoint(zlib.decompress(stored) if stored.startswith(_ZLIB) else stored)


def decode_blob(stored: bytes) -> dict[str, Typed]:
    return _decode_blob(stored)


def _compressed(encoded: bytes) -> bytes:
    """A checkpoint names each of its channels several times. Values are as the serializer made them."""
    if not _COMPRESSED_BYTES[0] <= len(encoded) <= _COMPRESSED_BYTES[1]:
        return encoded
    # Most of zlib's time goes into its tables, so they are small ones.
    compressor = zlib.compressobj(1, zlib.DEFLATED, 12, 5)
    compressed = compressor.compress(encoded) + compressor.flush()
    return min(compressed, encoded, key=len)


def serialize(
    serde: SerializerProtocol,
    namespace: str,
    parent: str | None,
    checkpoint: Mapping[str, Any],
    metadata: Mapping[str, Any],
    new_versions: ChannelVersions,
    source: Source | None,
    stamps: Iterable[str],
) -> Prepared:
    """Serialize a checkpoint, but for the values that its source has stored and that have not changed since.

    Args:
        stamps: for new blobs.
    """
    plain: dict[str, Any] = {}
    small: dict[str, Typed] = {}
    large: dict[str, Typed] = {}
    blob_of: dict[str, str] = {}
    for channel, value in checkpoint["channel_values"].items():
        if type(value) in _SCALARS or (type(value) is str and len(value) <= INLINE_BYTES):
            plain[channel] = value
        elif source is not None and _is_unchanged(channel, checkpoint, new_versions, source):
            blob_of[channel] = source.blob_of[channel]
        else:
            typed = dump(serde, value)
            (small if len(typed[1]) <= INLINE_BYTES else large)[channel] = typed
    inherits = bool(blob_of)
    blobs: dict[str, bytes] = {}
    for portion, stamp in zip(_portions(large), stamps, strict=False):
        blobs[stamp] = _encode(portion)
        blob_of.update(dict.fromkeys(portion, stamp))
    record = CheckpointRecord(
        _FORM,
        namespace.encode("utf-8", "surrogatepass"),
        parent,
        dump(serde, _without(checkpoint, plain)),
        dump(serde, metadata),
        small,
        _by_blob(blob_of),
    )
    return Prepared(_compressed(_encode(record)), blobs, inherits, blob_of)


def blob_of(record: CheckpointRecord) -> dict[str, str]:
    """The blob of each channel that has its value in one."""
    return {channel: blob for blob, channels in record.blobs.items() for channel in channels}


def dump(serde: SerializerProtocol, value: Any) -> Typed:
    kind, encoded = serde.dumps_typed(value)
    return "" if kind == _USUAL else kind, encoded


def load(serde: SerializerProtocol, typed: Typed) -> Any:
    kind, encoded = typed
    return serde.loads_typed((kind or _USUAL, encoded))


def load_plain(serde: SerializerProtocol, record: CheckpointRecord, checkpoint_id: str) -> dict[str, Any]:
    """The checkpoint with those of its values that are scalars."""
    checkpoint: dict[str, Any] = load(serde, record.checkpoint)
    checkpoint["id"] = checkpoint_id
    checkpoint.setdefault("channel_values", {})
    return checkpoint


def load_checkpoint(
    serde: SerializerProtocol,
    record: CheckpointRecord,
    checkpoint_id: str,
    blobs: Mapping[str, Mapping[str, Typed]],
) -> dict[str, Any]:
    """The checkpoint with all its values."""
    checkpoint = load_plain(serde, record, checkpoint_id)
    values = checkpoint["channel_values"]
    for channel, typed in record.values.items():
        values[channel] = load(serde, typed)
    for blob, channels in record.blobs.items():
        for channel in channels:
            values[channel] = load(serde, blobs[blob][channel])
    return checkpoint


def dump_writes(serde: SerializerProtocol, writes: Iterable[tuple[str, Any]], task_id: str, task_path: str) -> bytes:
    """Special channels have an index of their own, so that they are replaced; others are numbered."""
    numbered = [
        (WRITES_IDX_MAP.get(channel, index), channel, *dump(serde, value))
        for index, (channel, value) in enumerate(writes)
    ]
    return _encode(WritesRecord(_FORM, task_id, task_path, numbered))


def merge_writes(records: Iterable[bytes]) -> list[Write]:
    """The writes of a checkpoint, of all calls in their order: in the order in which LangGraph applies them.

    Of a special channel the last write counts, of others the first.
    """
    merged: dict[tuple[str, int], tuple[str, str, Typed]] = {}
    for stored in records:
        record = _decode_writes(stored)
        for index, channel, kind, value in record.writes:
            key = record.task_id, index
            if index < 0 or key not in merged:
                merged[key] = record.task_path, channel, (kind, value)
    ordered = sorted(merged.items(), key=lambda item: writes_sort_key(item[1][0], *item[0]))
    return [Write(task_id, channel, value) for (task_id, _), (_, channel, value) in ordered]


def load_writes(serde: SerializerProtocol, writes: Iterable[Write]) -> list[PendingWrite]:
    return [(write.task_id, write.channel, load(serde, write.value)) for write in writes]


def _without(checkpoint: Mapping[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with these values alone."""
    rest = {key: value for key, value in checkpoint.items() if key not in ("id", "channel_values")}
    if plain:
        rest["channel_values"] = plain
    return rest


def _is_unchanged(channel: str, checkpoint: Mapping[str, Any], new_versions: ChannelVersions, source: Source) -> bool:
    return (
        channel in source.blob_of
        and channel not in new_versions
        and checkpoint["channel_versions"].get(channel) == source.versions.get(channel)
    )


def _portions(values: dict[str, Typed]) -> list[dict[str, Typed]]:
    """Values in the portions in which they are stored together."""
    portions: list[dict[str, Typed]] = []
    size = _BLOB_BYTES
    for channel, typed in values.items():
        if size + len(typed[1]) > _BLOB_BYTES:
            portions.append({})
            size = 0
        portions[-1][channel] = typed
        size += len(typed[1])
    return portions


def _by_blob(blob_of: Mapping[str, str]) -> dict[str, list[str]]:
    blobs: dict[str, list[str]] = {}
    for channel, blob in blob_of.items():
        blobs.setdefault(blob, []).append(channel)
    return blobs

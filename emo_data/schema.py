"""The clip row: the one place where ingestion (which writes) and the dataset (which reads) meet.

Legend: F frames of the clip at `fps`, S sound samples at 16 kHz, L audio layers, D audio feature width.
Boxes are x0, y0, x1, y1 in 0-1 of the clip's own picture; angles are degrees; speeds are degrees per frame.
A frame in which no face was found holds NaN in every per-frame column: time is never shifted.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 3
FPS = 25
"""Frames per second that a model is trained and run at. Not in the paper; it is that of the datasets it names."""
SAMPLE_RATE = 16_000
"""Hz, mono: what wav2vec2 hears."""


class SoundState(StrEnum):
    """What may be learned from a clip's sound. Only `VOICE` clips enter stages 2 and 3."""

    VOICE = "voice"
    ABSENT = "absent"
    """The source has no sound track."""
    SILENT = "silent"
    """There is a track, but nothing can be heard in this clip."""
    FOREIGN = "foreign"
    """Somebody speaks while the mouth that is seen rests: a voice-over."""


class Split(StrEnum):
    """Which side of the identity-disjoint split a clip is on."""

    TRAIN = "train"
    TEST = "test"


class Reason(StrEnum):
    """Why a source, or a stretch of one, did not become a clip."""

    UNREADABLE = "unreadable"
    NO_VIDEO = "no_video"
    TOO_LARGE = "too_large"
    TOO_SHORT = "too_short"
    LOW_RATE = "low_rate"
    TOO_SMALL = "too_small"
    NO_FACE = "no_face"
    MANY_FACES = "many_faces"
    FACE_TOO_SMALL = "face_too_small"
    OUT_OF_SYNC = "out_of_sync"
    CRASHED = "crashed"
    HUNG = "hung"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    CRASH_LOOP = "crash_loop"


FAULTS = frozenset({Reason.CRASHED, Reason.HUNG, Reason.OUT_OF_MEMORY, Reason.FAILED, Reason.CRASH_LOOP})
"""What is wrong with our programs on such a file rather than with the file: worth another try after an update."""


_VECTOR3 = pa.list_(pa.float32(), 3)
_BOX = pa.list_(pa.float32(), 4)


def _is_long(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_binary(kind))


CLIP_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # as given by the user
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("start_seconds", pa.float64(), nullable=False),  # in the source's own time
        pa.field("end_seconds", pa.float64(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # Split
        pa.field("fps", pa.float32(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),  # pixels per side of the square picture
        pa.field("frames", pa.int32(), nullable=False),  # F
        pa.field("video", pa.large_binary(), nullable=False),  # mp4, picture only, a key frame every half second
        pa.field("sound", pa.list_(pa.int16()), nullable=False),  # (S,), S = round(F / fps * 16000); zeros where absent
        pa.field("sound_state", pa.string(), nullable=False),  # SoundState
        pa.field("box", pa.list_(_BOX), nullable=False),  # (F, 4)
        pa.field("rotation", pa.list_(_VECTOR3), nullable=False),  # (F, 3) yaw, pitch, roll, not smoothed
        pa.field("translation", pa.list_(_VECTOR3), nullable=False),  # (F, 3) nose bridge x, y, face height; 0-1
        pa.field("speed", pa.list_(pa.float32()), nullable=False),  # (F,) degrees per frame, smoothed; [0] = [1]
        pa.field("mouth_opening", pa.list_(pa.float32()), nullable=False),  # (F,) inner lip distance / face height
        pa.field("audio_features", pa.list_(pa.float16()), nullable=False),  # (F * L * D,) row-major; empty if absent
        pa.field("audio_layers", pa.list_(pa.int32()), nullable=False),  # (L,) wav2vec2 hidden states that were kept
        pa.field("audio_width", pa.int32(), nullable=False),  # D
        pa.field("audio_extractor", pa.string(), nullable=False),  # fingerprint of the extractor
        pa.field("detection_rate", pa.float32(), nullable=False),  # share of frames with a face
        pa.field("face_size", pa.float32(), nullable=False),  # median face height in source pixels
        pa.field("sharpness", pa.float32(), nullable=False),  # median variance of the Laplacian, 0-255 scale
        pa.field("blur", pa.float32(), nullable=False),  # 0 sharp to 1, of the face, judged apart from its contrast
        pa.field("brightness", pa.float32(), nullable=False),  # mean luma 0-255 inside the face box
        pa.field("yaw_range", pa.float32(), nullable=False),  # 95th minus 5th percentile, degrees
        pa.field("loudness", pa.float32(), nullable=False),  # dBFS of the root mean square; -inf if absent
        pa.field("speech_ratio", pa.float32(), nullable=False),  # share of frames in which something is heard
        pa.field("mouth_sound_correlation", pa.float32(), nullable=False),  # Pearson r at lag 0; NaN if undefined
        pa.field("sync_offset", pa.float32(), nullable=True),  # seconds that the sound is late; null: not judged
        pa.field("sync_confidence", pa.float32(), nullable=True),  # in the judge's own units
        pa.field("tools", pa.string(), nullable=False),  # JSON: versions of what measured this row
    ],
    metadata={b"emo_schema_version": str(SCHEMA_VERSION).encode()},
)

SUMMARY_SCHEMA = pa.schema(
    [field for field in CLIP_SCHEMA if field.name == "audio_layers" or not _is_long(field.type)],
    metadata=CLIP_SCHEMA.metadata,
)
"""What a clip is chosen by, without what it shows: a few hundred bytes, so that millions can be looked over."""

REJECTION_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("end_seconds", pa.float64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # Reason
        pa.field("measured", pa.float64(), nullable=True),  # the number that decided, where there is one
        pa.field("threshold", pa.float64(), nullable=True),
        pa.field("detail", pa.string(), nullable=False),  # one sentence for a person
        pa.field("picture", pa.binary(), nullable=True),  # JPEG of a moment of it, where there is one
    ],
    metadata={b"emo_schema_version": str(SCHEMA_VERSION).encode()},
)


def table_of(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; arrays (F,) and (F, n) become lists without passing through Python objects."""
    tables = [
        pa.Table.from_arrays([_column(row[field.name], field.type) for field in schema], schema=schema) for row in rows
    ]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _column(value: Any, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind):
        return pa.array([value], type=kind)
    inner = kind.value_type
    if pa.types.is_fixed_size_list(inner):
        flat = pa.array(value.reshape(-1), type=inner.value_type)
        values = pa.FixedSizeListArray.from_arrays(flat, inner.list_size)
    else:
        values = pa.array(value, type=inner)
    return pa.ListArray.from_arrays(pa.array([0, len(values)], type=pa.int32()), values)


def value_of(scalar: pa.Scalar) -> Any:
    """One value of a row; a nested list becomes an array of its own shape: (F,), (F, 3)…"""
    if not isinstance(scalar, pa.ListScalar):
        return scalar.as_py()
    values, inner = scalar.values, None
    if pa.types.is_fixed_size_list(values.type):
        inner = values.type.list_size
        values = values.flatten()
    array = values.to_numpy(zero_copy_only=False)
    return array.reshape(-1, inner) if inner else array

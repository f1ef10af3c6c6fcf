"""The last step of a row: what wav2vec2 hears in the clip's stored sound. It needs torch, and likes a GPU."""

import numpy as np
import pyarrow as pa

from emo_data.features.audio import AudioEncoder
from emo_data.schema import CLIP_SCHEMA, SoundState, table_of, value_of


def hear(clips: pa.Table, encoder: AudioEncoder) -> pa.Table:
    """The same rows with audio features; a clip without sound has none."""
    return table_of([_heard(clips, row, encoder) for row in range(clips.num_rows)], CLIP_SCHEMA)


def _heard(clips: pa.Table, number: int, encoder: AudioEncoder) -> dict[str, object]:
    row = {name: value_of(clips.column(name)[number]) for name in CLIP_SCHEMA.names}
    features = np.zeros(0, dtype=np.float16)
    if row["sound_state"] != SoundState.ABSENT:
        sound = row["sound"].astype(np.float32) / 32767
        features = encoder.encode(sound, row["frames"], row["fps"]).reshape(-1)
    return row | {
        "audio_features": features,
        "audio_layers": np.array(encoder.layers, dtype=np.int32),
        "audio_width": encoder.width,
        "audio_extractor": encoder.fingerprint,
    }

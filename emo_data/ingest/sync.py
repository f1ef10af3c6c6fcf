"""Whether the mouth goes with the sound, judged by a model in the manner of SyncNet, where one is given.

There is none in this repository, for no weights may come with it. Whoever has one wraps it in a class like `Judge` and
hands a function that makes it to `run.ingest(..., judge=...)`; each worker then makes its own.
"""

from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from emo_data.ingest.accept import Thresholds, Verdict
from emo_data.ingest.watch import RejectionRow, rejection
from emo_data.schema import CLIP_SCHEMA, REJECTION_SCHEMA, Reason, SoundState, table_of, value_of
from emo_data.video import decode_clip


class Sync(NamedTuple):
    """offset: seconds that the sound is late; confidence: in the judge's own units, more is surer."""

    offset: float
    confidence: float


class Judge(Protocol):
    """name: goes into the dataset's settings, so that no two judges mix."""

    name: str

    def __call__(self, pictures: np.ndarray, sound: np.ndarray, fps: float) -> Sync:
        """pictures: RGB uint8 (F, H, W, 3); sound: float32 (S,) at 16 kHz."""
        ...


def judged(clips: pa.Table, rejections: pa.Table, judge: Judge, thresholds: Thresholds) -> tuple[pa.Table, pa.Table]:
    """Fill the columns sync_offset and sync_confidence of clips with a voice, and reject those out of sync."""
    kept: list[dict[str, object]] = []
    refused: list[RejectionRow] = []
    for number in range(clips.num_rows):
        row = {name: value_of(clips.column(name)[number]) for name in CLIP_SCHEMA.names}
        if row["sound_state"] == SoundState.VOICE:
            found = judge(decode_clip(row["video"]), row["sound"].astype(np.float32) / 32767, row["fps"])
            row |= {"sync_offset": found.offset, "sync_confidence": found.confidence}
            verdict = _verdict(found, thresholds)
            if verdict:
                seconds = row["end_seconds"] - row["start_seconds"]
                refused.append(rejection(row["source"], row["source_sha256"], verdict, row["start_seconds"], seconds))
                continue
        kept.append(row)
    return table_of(kept, CLIP_SCHEMA), pa.concat_tables([rejections, table_of(refused, REJECTION_SCHEMA)])


def _verdict(found: Sync, thresholds: Thresholds) -> Verdict | None:
    if found.confidence < thresholds.min_sync_confidence:
        least = thresholds.min_sync_confidence
        return Verdict(Reason.OUT_OF_SYNC, "the mouth does not go with the sound", found.confidence, least)
    if abs(found.offset) > thresholds.max_sync_offset:
        return Verdict(Reason.OUT_OF_SYNC, "the sound is early or late", abs(found.offset), thresholds.max_sync_offset)
    return None

"""Which clips of a dataset a stage may learn from: found once, held in a dozen bytes for each clip, because every
process that reads has it.

Thresholds are applied here, when rows are read: what a stage leaves out stays in the dataset for another one.
"""

import hashlib
import operator
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo_data.errors import UserError
from emo_data.schema import CLIP_SCHEMA, SAMPLE_RATE, SoundState, Split
from emo_data.store import Dataset, Place
from emo_data.video import decode_clip

_NUMBERS = ["clip_id", "split", "frames", "sound_state", "audio_extractor", "audio_layers", "audio_width"]
_KINDS = (pa.types.is_floating, pa.types.is_integer)
JUDGED = [field.name for field in CLIP_SCHEMA if any(is_kind(field.type) for is_kind in _KINDS)]
"""Columns that a threshold can be put on."""
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


class Extractor(NamedTuple):
    """What made a clip's audio features."""

    fingerprint: str
    layers: tuple[int, ...]
    width: int


class Threshold(NamedTuple):
    """A condition on a column."""

    column: str
    sign: str
    number: float

    @classmethod
    def parse(cls, text: str) -> "Threshold":
        """COLUMN<NUMBER, and so for <=, > and >=. UserError for anything else."""
        found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*", text)
        try:
            column, sign, number = found.groups() if found else ("", "", "nan")
            threshold = cls(column, sign, float(number))
        except ValueError:
            threshold = cls("", "", 0)
        if threshold.column not in JUDGED:
            raise UserError(f"--keep {text!r}: must be like 'blur<0.5', with one of {', '.join(JUDGED)}")
        return threshold

    def holds(self, table: pa.Table) -> np.ndarray:
        """bool (rows,). What was not judged does not pass."""
        values, number = table.column(self.column), self.number
        if pa.types.is_floating(values.type):  # in the column's own precision: its 0.1 is not less than 0.1
            values = pc.fill_null(values, float("nan"))
            number = values.type.to_pandas_dtype()(number)
        return np.asarray(_COMPARE[self.sign](values.to_numpy(), number))


class NoClipsError(UserError):
    """A dataset that can be read holds no clip of the kind that is wanted."""


class ClipIndex:
    """The clips of one split, in an order that depends on nothing but their names.

    fingerprint: sha256 (first 16 hex digits) of these names and of every value in the objects that hold the clips.
    listening: whether the stage needs sound; clips without a voice are then left out (DATA: stage 1 only). keep: see
    `Threshold.parse`. Raises UserError where no clip is left, and says what left them out.
    """

    def __init__(self, url: str, split: Split, *, listening: bool, keep: Sequence[str] = ()) -> None:
        self.url, self.listening = url, listening
        self.dataset = Dataset.open(url)
        self.fps, self.size = float(self.dataset.config["fps"]), int(self.dataset.config["size"])
        thresholds = [Threshold.parse(text) for text in keep]
        self._places, table = self.dataset.clips(
            list(dict.fromkeys(_NUMBERS + [threshold.column for threshold in thresholds]))
        )
        if not table.num_rows:
            raise UserError(f"dataset {url}: holds no clips; `emo data info {url}` says why sources were rejected")
        left = _equal(table, "split", split)
        told = [f"none of its {table.num_rows} clips is in the {split} split"]
        conditions = [(str(text), threshold.holds(table)) for text, threshold in zip(keep, thresholds, strict=True)]
        if listening:
            conditions.insert(0, ("with a voice", _equal(table, "sound_state", SoundState.VOICE)))
        for name, passes in conditions:
            before = int(left.sum())
            left &= passes
            told.append(f"{name} leaves {int(left.sum())} of {before}")
        if not left.any():
            raise NoClipsError(
                f"dataset {url}: " + (told[0] if len(told) == 1 else f"no clip is left: {'; '.join(told[1:])}")
            )
        chosen = np.flatnonzero(left)
        self._rows = chosen[pc.sort_indices(table.column("clip_id").take(chosen)).to_numpy()]
        kept = table.take(self._rows)
        self.lengths = kept.column("frames").to_numpy().astype(np.int32)
        self._extractors = _extractors(kept)
        named = "\n".join(self._places.sha256s(self._rows) + kept.column("clip_id").to_pylist())
        self.fingerprint = hashlib.sha256(named.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def extractor(self) -> Extractor:
        """Where the audio features come from; UserError where the clips disagree."""
        if len(self._extractors) > 1:
            raise UserError(
                f"dataset {self.url}: its audio features are of {len(self._extractors)} extractors; ingest it again"
            )
        return self._extractors[0]

    def place(self, clip: int) -> Place:
        """Where a clip lies."""
        return self._places[int(self._rows[clip])]

    def name(self, clip: int) -> str:
        """What a person knows a clip by."""
        return f"clip {self.read(clip, ['clip_id'])['clip_id']}"

    def read(self, clip: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of a clip."""
        return self.dataset.read_clip(self.place(clip), columns)

    def pictures(self, clip: int, frames: np.ndarray | None = None) -> np.ndarray:
        """uint8 (F, size, size, 3): all of a clip, or the frames with these numbers, ascending."""
        return decode_clip(self.read(clip, ["video"])["video"], frames)

    def sound(self, clip: int) -> np.ndarray:
        """float32 (S,) in -1..1 at 16 kHz."""
        return self.read(clip, ["sound"])["sound"].astype(np.float32) / 32768

    def speeds(self, most: int) -> np.ndarray:
        """Head speeds of up to `most` clips, evenly chosen, degrees per frame; NaN where no face was found."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(len(self), most)).astype(int))
        return np.concatenate([self.read(int(clip), ["speed"])["speed"] for clip in chosen])


def seconds_of_sound(frames: int, fps: float) -> int:
    """Samples at 16 kHz that so many frames last."""
    return round(frames / fps * SAMPLE_RATE)


def _extractors(clips: pa.Table) -> list[Extractor]:
    layers = pc.binary_join(clips.column("audio_layers").cast(pa.list_(pa.string())), ",")
    width = clips.column("audio_width").cast(pa.string())
    found = pc.unique(pc.binary_join_element_wise(clips.column("audio_extractor"), layers, width, "|")).to_pylist()
    parts = [one.split("|") for one in found]
    return [
        Extractor(name, tuple(int(layer) for layer in layers.split(",") if layer), int(width))
        for name, layers, width in parts
    ]


def _equal(table: pa.Table, column: str, value: str) -> np.ndarray:
    return pc.equal(table.column(column), str(value)).to_numpy(zero_copy_only=False).astype(bool)

"""Rows read back as clips: numbers up front, pictures and sound when asked for."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from emo_data.dataset.sample import Clip
from emo_data.errors import UserError
from emo_data.schema import SoundState, Split
from emo_data.store import Dataset
from emo_data.video import decode_clip

_NUMBERS = ["clip_id", "split", "frames", "sound_state", "audio_extractor", "audio_layers", "audio_width"]


class Extractor(NamedTuple):
    """What made a clip's audio features."""

    fingerprint: str
    layers: tuple[int, ...]
    width: int


class ClipReader:
    """The clips of a dataset that a stage may learn from.

    listening: whether the stage needs sound; clips without a voice are then left out (DATA: stage 1 only).
    """

    def __init__(self, url: str, split: Split, *, listening: bool) -> None:
        self.dataset = Dataset.open(url)
        self.url = url
        self.fps = float(self.dataset.config["fps"])
        self.size = int(self.dataset.config["size"])
        places, table = self.dataset.clips(_NUMBERS)
        rows = table.to_pylist()
        if not rows:
            raise UserError(f"dataset {url}: holds no clips; `emo data info {url}` says why sources were rejected")
        self._places = {row["clip_id"]: place for row, place in zip(rows, places, strict=True)}
        self.rows: list[dict[str, Any]] = [
            row
            for row in sorted(rows, key=lambda row: row["clip_id"])
            if row["split"] == split and (not listening or row["sound_state"] == SoundState.VOICE)
        ]
        self.listening = listening
        if not self.rows:
            need = "with a voice " if listening else ""
            raise UserError(f"dataset {url}: none of its {len(rows)} clips {need}is in the {split} split")

    @property
    def extractor(self) -> Extractor:
        """Where the audio features come from; UserError where the clips disagree."""
        found = {Extractor(row["audio_extractor"], tuple(row["audio_layers"]), row["audio_width"]) for row in self.rows}
        if len(found) > 1:
            raise UserError(f"dataset {self.url}: its audio features are of {len(found)} extractors; ingest it again")
        return found.pop()

    @property
    def fingerprint(self) -> str:
        """sha256 (first 16 hex digits) of the objects that hold these clips: of every value in them."""
        paths = {self._places[row["clip_id"]].path for row in self.rows}
        stored = [piece.clips for commit in self.dataset.commits() for piece in commit.pieces if piece.clips]
        held = sorted(one.sha256 for one in stored if one.path in paths)
        return hashlib.sha256("\n".join(held).encode()).hexdigest()[:16]

    def clips(self) -> list[Clip]:
        """All of them, without pictures, in an order that depends on nothing but their names."""
        return [self._clip(row) for row in self.rows]

    def _clip(self, row: dict[str, Any]) -> Clip:
        columns = ["box", "speed"] + (["audio_features"] if self.listening else [])
        values = self.dataset.read_clip(self._places[row["clip_id"]], columns)
        audio = None
        if self.listening:
            audio = values["audio_features"].reshape(row["frames"], len(row["audio_layers"]), row["audio_width"])
        return Clip(row["clip_id"], values["box"], values["speed"], audio)

    def pictures(self, clip_id: str) -> np.ndarray:
        """uint8 (F, size, size, 3)."""
        return decode_clip(self.dataset.read_clip(self._places[clip_id], ["video"])["video"])

    def sound(self, clip_id: str) -> np.ndarray:
        """float32 (S,) in -1..1 at 16 kHz."""
        return self.dataset.read_clip(self._places[clip_id], ["sound"])["sound"].astype(np.float32) / 32768

"""What an ingestion is told. Two datasets made with equal forms from equal sources are equal."""

import hashlib
import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from emo_data.ingest.accept import Thresholds


class IngestConfig(BaseModel):
    """The form of `emo ingest`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fps: float = Field(25.0, gt=0, le=120)
    size: int = Field(512, ge=32, le=2048, multiple_of=2)
    """Pixels per side of the stored picture."""
    min_seconds: float = Field(2.0, gt=0)
    max_seconds: float = Field(10.0, gt=0)
    chunk_seconds: float = Field(300.0, gt=0)
    """A longer source is looked at in parts of about this length, side by side."""
    audio_model: str = "facebook/wav2vec2-base-960h"
    """Folder or hub id of a wav2vec2, or "tiny"."""
    audio_layers: Literal["all"] | list[int] = "all"
    """Hidden states to store, 1 to the number of blocks."""
    identity_pattern: str | None = None
    """Regular expression with one group, searched in the file's name; None: the name is the identity."""
    test_share: float = Field(0.1, ge=0, lt=1)
    """Share of identities held out (EMO 4.1: 10 % of HDTF)."""
    thresholds: Thresholds = Thresholds()

    @field_validator("identity_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        try:
            groups = 1 if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        if groups != 1:
            raise ValueError("needs exactly one group, e.g. ^(look[0-9]+)_")
        return pattern

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_seconds < self.min_seconds:
            raise ValueError(f"max_seconds {self.max_seconds} is less than min_seconds {self.min_seconds}")
        return self

    @property
    def chunk_frames(self) -> int:
        """At least two of the longest clips, and what neighbours both look at."""
        return round(max(self.chunk_seconds, 2 * self.max_seconds + 4, 2 * self.min_seconds + 4) * self.fps)

    def fingerprint(self, extractor: str) -> str:
        """Eight hex digits of everything that decides a row besides its source."""
        form = self.model_dump_json(exclude={"audio_model"})
        return hashlib.sha256(f"{form}{extractor}".encode()).hexdigest()[:8]

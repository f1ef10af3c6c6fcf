"""What a client asks for beside its two files, and how far a job is. The service's own words for `inference`."""

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from emo_core.inference.preprocess import FASTEST, SPEEDS, constant_speed, is_box
from emo_core.inference.sampling import Sampling, SchedulerName, scales

_FOUR = re.compile(r"\d*\.?\d+(,\d*\.?\d+){3}")


def _speed(text: str) -> str:
    """A file's name would be one of the server's."""
    value = constant_speed(text)
    if value is None:
        raise ValueError(f"give degrees per frame (0 to {FASTEST}) or {', '.join(SPEEDS)}")
    if not 0 <= value <= FASTEST:
        raise ValueError(f"must lie between 0 and {FASTEST} degrees per frame")
    return text


def _region(text: str) -> str:
    if text in ("auto", "all"):
        return text
    if not _FOUR.fullmatch(text):
        raise ValueError("give auto, all, or x0,y0,x1,y1 in 0-1")
    box = [float(number) for number in text.split(",")]
    if not is_box(*box):
        raise ValueError("needs 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    return ",".join(f"{number:g}" for number in box)


class Wish(BaseModel):
    """How a video is to be made. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[
        str, Field(description="an id of GET /v1/models; empty is the first", max_length=100, examples=["default"])
    ] = ""
    speed: Annotated[
        str,
        Field(
            description="of the head: degrees per frame, or still, calm, lively, singing",
            max_length=20,
            examples=["calm", "0.7"],
        ),
        AfterValidator(_speed),
    ] = "calm"
    region: Annotated[
        str,
        Field(
            description="where the face may go: auto, all, or x0,y0,x1,y1 in 0-1 of the framed picture",
            max_length=60,
            examples=["auto", "0.2,0.1,0.8,0.9"],
        ),
        AfterValidator(_region),
    ] = "auto"
    face: Annotated[
        int | None, Field(description="which one speaks, from left to right", ge=1, le=100, examples=[1])
    ] = None
    steps: Annotated[int, Field(description="denoising steps per clip", ge=1, le=100, examples=[15])] = 15
    scheduler: SchedulerName = "dpm++"
    seed: Annotated[int, Field(description="another one, another video", ge=0, lt=2**63, examples=[0])] = 0
    guidance: Annotated[float | None, Field(description="both scales in one", ge=0, le=20, examples=[2])] = None
    reference_scale: Annotated[float | None, Field(ge=0, le=20)] = None
    audio_scale: Annotated[float | None, Field(ge=0, le=20)] = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.guidance is not None and (self.reference_scale, self.audio_scale) != (None, None):
            raise ValueError("guidance is both scales in one: give it, or reference_scale and audio_scale")
        return self

    @property
    def sampling(self) -> Sampling:
        """As the pipeline takes it."""
        reference, audio = scales(self.guidance, self.reference_scale, self.audio_scale)
        return Sampling(self.steps, reference, audio, self.seed, self.scheduler)


class Look(BaseModel):
    """What a video of a portrait would show. Boxes are x0, y0, x1, y1 in 0-1 of the framed picture."""

    model_config = ConfigDict(frozen=True)

    faces: Annotated[int, Field(description="that the whole picture shows")]
    face: Annotated[list[float], Field(description="the one that speaks")]
    region: Annotated[list[float], Field(description="where it may go")]
    picture: Annotated[str, Field(description="the framed picture, a data URL")]


class State(StrEnum):
    """Of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether it stays so."""
        return self not in (State.QUEUED, State.RUNNING)


class Job(BaseModel):
    """One video, from acceptance to its end."""

    model_config = ConfigDict(frozen=True)

    id: str
    wish: Wish
    state: State
    frames_done: int
    frames_total: int
    error: str | None
    accepted: float
    """Seconds since 1970; so the next."""
    ended: float | None

    @property
    def progress(self) -> float:
        """0 to 1."""
        return 1.0 if self.state == State.DONE else self.frames_done / self.frames_total

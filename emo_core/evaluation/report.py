"""What an evaluation found, as it is written: REPORT.json."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from emo_core.evaluation.frechet import Distance

KEYS = {
    "fid": ("fid",),
    "fvd": ("fvd",),
    "sync": ("sync_confidence", "sync_offset", "sync_distance"),
    "fsim": ("fsim",),
    "efid": ("efid",),
    "motion": ("velocity_mean", "velocity_variance", "vmv", "region_containment"),
}
"""Metric asked for -> numbers reported."""


class Side(BaseModel):
    """One video of a pair: what it is, and its own numbers. None: not measured, or not asked for."""

    model_config = ConfigDict(extra="forbid")

    frames: int
    width: int
    height: int
    missing_frames: int
    face_share: float | None
    fsim: float | None = None
    sync_confidence: float | None = None
    sync_offset: int | None = None
    sync_distance: float | None = None
    velocity_mean: float | None = None
    velocity_variance: float | None = None
    travel_across: float | None = None
    travel_down: float | None = None
    region_containment: float | None = None


class ClipReport(BaseModel):
    """A pair. problems: why it, or some metric of it, does not count; left_out: those metrics; notes: what is odd."""

    model_config = ConfigDict(extra="forbid")

    name: str
    generated_file: str | None
    truth_file: str | None
    portrait_file: str | None
    identity: str | None
    generated: Side | None = None
    truth: Side | None = None
    problems: list[str] = Field(default_factory=list)
    left_out: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Report(BaseModel):
    """metrics: of the generated videos; ground_truth: of the truth, where that can be measured. reasons: why a number
    is null. counted: clips behind each metric. samples: how the Fréchet distances depend on how much there is."""

    model_config = ConfigDict(extra="forbid")

    metrics: dict[str, float | None]
    reasons: dict[str, str]
    ground_truth: dict[str, float | None]
    counted: dict[str, int]
    samples: dict[str, Distance]
    extractors: dict[str, dict[str, Any]]
    clips: list[ClipReport]
    settings: dict[str, Any]
    speed_frames: dict[str, list[int]] = Field(description="frames in each bin of motion.SPEED_EDGES, by side")

    @property
    def troubled(self) -> list[ClipReport]:
        """Clips that do not count everywhere."""
        return [clip for clip in self.clips if clip.problems]

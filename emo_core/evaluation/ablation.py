"""The paper's ablations on any model: assigned head speeds (EMO Table 2) and face regions (EMO Figure 7)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from emo_core.evaluation.extractors import Setup, make
from emo_core.evaluation.motion import containment, velocities
from emo_core.evaluation.trial import OnProgress, Trial, make_videos
from emo_core.evaluation.watch import LEAST_FACES, Job, Seen, look
from emo_core.inference.generate import Loaded
from emo_core.inference.preprocess import Choice, frame_portrait
from emo_core.inference.sampling import Sampling
from emo_data.errors import UserError

Kind = Literal["speed", "region"]
ASSIGNED = ("0.1", "0.7", "1.3", "1.9")
"""Degrees per frame (EMO 4.5.1)."""
WITHOUT = "none"
"""Of a model without speed layers."""
REGIONS = {"tight": (0.0, 0.0), "auto": None, "wide": (1.0, 0.0), "tall": (0.0, 0.6), "all": None}
"""Not in the paper, which shows pictures and no numbers: by how much of its width and height the face's box is enlarged
in all; "auto" and "all" are those of `emo generate`."""
LIVELY = "lively"
"""At what speed regions are compared: a head that rests stays in any."""


@dataclass(frozen=True)
class Cast:
    """Who speaks with whose voice: trial k has portrait and voice number k, over and over, and k as its seed."""

    portraits: Sequence[Path]
    voices: Sequence[Path]
    clips: int

    def trials(self) -> list[Trial]:
        """One for each clip, under no condition yet."""
        return [
            Trial(
                f"{number:03d}",
                self.portraits[number % len(self.portraits)],
                self.voices[number % len(self.voices)],
                seed=number,
            )
            for number in range(self.clips)
        ]


class Shown(BaseModel):
    """One video under one condition. Speeds in degrees per frame, travel in widths and heights of the picture."""

    model_config = ConfigDict(extra="forbid")

    condition: str
    video: str
    portrait: str
    voice: str
    region: str
    problem: str = ""
    velocity_mean: float | None = None
    velocity_variance: float | None = None
    travel_across: float | None = None
    travel_down: float | None = None
    region_containment: float | None = None


class Row(BaseModel):
    """A condition's videos together: means over those that show a face; VMV as in Table 2."""

    model_config = ConfigDict(extra="forbid")

    condition: str
    videos: int
    counted: int
    velocity_mean: float | None
    velocity_variance: float | None
    vmv: float | None
    travel_across: float | None
    travel_down: float | None
    region_containment: float | None


class AblationReport(BaseModel):
    """report.json of an ablation."""

    model_config = ConfigDict(extra="forbid")

    ablation: Kind
    model: str
    without_speed: str | None
    settings: dict[str, object]
    rows: list[Row]
    videos: list[Shown]


def ablate_speed(
    loaded: Loaded,
    without: Loaded | None,
    cast: Cast,
    sampling: Sampling,
    out: Path,
    on_progress: OnProgress,
    speeds: Sequence[str] = ASSIGNED,
) -> AblationReport:
    """Make OUT/videos and, by the model that has no speed layers, OUT/without_speed, and measure them (EMO Table 2).

    UserError where `loaded` has no speed layers, or `without` has.
    """
    if loaded.pipeline.checkpoint.card.speed_buckets is None:
        raise UserError("--ablation speed: this model has no speed layers; give one of stage 3")
    if without is not None and without.pipeline.checkpoint.card.speed_buckets is not None:
        raise UserError("--without-speed: this model has speed layers; give the one of stage 2 that it came from")
    plain = cast.trials()
    trials = [replace(one, name=f"{speed}_{one.name}", speed=speed) for speed in speeds for one in plain]
    total = len(trials) + (len(plain) if without else 0)
    films = make_videos(loaded, trials, sampling, out / "videos", lambda done, _, name: on_progress(done, total, name))
    shown = [(trial.speed, trial, film) for trial, film in zip(trials, films, strict=True)]
    if without is not None:
        films = make_videos(
            without,
            plain,
            sampling,
            out / "without_speed",
            lambda done, _, name: on_progress(len(trials) + done, total, name),
        )
        shown = [(WITHOUT, trial, film) for trial, film in zip(plain, films, strict=True)] + shown
    return _report("speed", loaded, without, sampling, out, shown)


def ablate_region(
    loaded: Loaded,
    cast: Cast,
    sampling: Sampling,
    out: Path,
    on_progress: OnProgress,
    regions: Sequence[str] = tuple(REGIONS),
) -> AblationReport:
    """Make OUT/videos with the face in a tight, a wide, a tall region and anywhere, and measure them (EMO Figure 7)."""
    plain = cast.trials()
    size = loaded.pipeline.checkpoint.card.config.size
    faces = {one.portrait: frame_portrait(one.portrait, size, "auto", Choice()).face for one in plain}
    speed = Trial.speed if loaded.pipeline.checkpoint.card.speed_buckets is None else LIVELY
    labelled = [
        (
            region,
            replace(one, name=f"{region}_{one.name}", speed=speed, region=region_around(faces[one.portrait], region)),
        )
        for region in regions
        for one in plain
    ]
    films = make_videos(loaded, [trial for _, trial in labelled], sampling, out / "videos", on_progress)
    shown = [(region, trial, film) for (region, trial), film in zip(labelled, films, strict=True)]
    return _report("region", loaded, None, sampling, out, shown)


def region_around(face: np.ndarray, region: str) -> str:
    """What to ask `emo generate` for. face: (4,) box in 0-1 of the framed portrait."""
    grow = REGIONS[region]
    if grow is None:
        return region
    extra = (face[2:] - face[:2]) * np.array(grow) / 2
    box = np.concatenate([face[:2] - extra, face[2:] + extra]).clip(0, 1)
    return ",".join(f"{value:.4f}" for value in box)


def box_of(region: str) -> np.ndarray | None:
    """The corners (4,) of a region that `region_around` made; None of a word."""
    return np.array(region.split(","), float) if "," in region else None


def _report(
    kind: Kind,
    loaded: Loaded,
    without: Loaded | None,
    sampling: Sampling,
    out: Path,
    films: Sequence[tuple[str, Trial, Path]],
) -> AblationReport:
    extractors = make(Setup(("motion",)))
    videos = []
    for condition, trial, film in films:
        told = Shown(
            condition=condition,
            video=str(film.relative_to(out)),
            portrait=trial.portrait.name,
            voice=trial.voice.name,
            region=trial.region,
        )
        seen = look(Job(str(film)), extractors)
        if not isinstance(seen, Seen):
            raise AssertionError(seen.problem)  # we have just written it
        if seen.motion is None or seen.face_share < LEAST_FACES:
            told.problem = f"shows a face in {seen.faces} of {seen.frames} frames only"
        else:
            told.velocity_mean, told.velocity_variance = seen.motion.velocity_mean, seen.motion.velocity_variance
            told.travel_across, told.travel_down = seen.motion.travel_across, seen.motion.travel_down
            box = box_of(trial.region)
            told.region_containment = None if box is None else containment(seen.boxes, box)
        videos.append(told)
    conditions = list(dict.fromkeys(condition for condition, _, _ in films))
    return AblationReport(
        ablation=kind,
        model=loaded.fingerprint,
        without_speed=None if without is None else without.fingerprint,
        settings={name: value for name, value in vars(sampling).items() if name != "seed"},
        rows=[_row(condition, [one for one in videos if one.condition == condition]) for condition in conditions],
        videos=videos,
    )


def _row(condition: str, videos: Sequence[Shown]) -> Row:
    counted = [one for one in videos if not one.problem]
    moved = (
        velocities([one.velocity_mean or 0 for one in counted], [one.velocity_variance or 0 for one in counted])
        if counted
        else None
    )

    def mean(key: str) -> float | None:
        known = [value for one in counted if (value := getattr(one, key)) is not None]
        return float(np.mean(known)) if known else None

    return Row(
        condition=condition,
        videos=len(videos),
        counted=len(counted),
        velocity_mean=moved.velocity_mean if moved else None,
        velocity_variance=moved.velocity_variance if moved else None,
        vmv=moved.vmv if moved else None,
        travel_across=mean("travel_across"),
        travel_down=mean("travel_down"),
        region_containment=mean("region_containment"),
    )

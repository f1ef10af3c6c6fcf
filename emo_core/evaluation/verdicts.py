"""The paper's claims, judged by finished videos: each with its bar, its numbers and a picture.

Not in the paper: the bars. A number that could not be measured reaches none.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from emo_core.evaluation.ablation import WITHOUT, AblationReport
from emo_core.evaluation.claims import (
    Film,
    VoiceAndMouth,
    difference_interval,
    film_of,
    film_of_portrait,
    joins_over_inside,
    mouth_over_rest,
    nearest,
    voice_and_mouth,
)
from emo_core.evaluation.claims_plot import plot_changes, plot_intervals, plot_joins, plot_mouths, plot_speeds
from emo_core.evaluation.exhibit import write_rows
from emo_core.evaluation.watch import LEAST_FACES
from emo_data.film import encode_video
from emo_data.schema import FPS
from emo_data.synthetic.head import Head
from emo_data.synthetic.look import Look
from emo_data.synthetic.sample import render_clip
from emo_data.whole import whole_file

VERSION = 2
"""Rises with every change of what the same videos are judged to show."""
SPEEDS = ("0.1", "0.7", "1.3")
TRIED_REGIONS = ("tight", "auto", "wide")
LEAST_SECONDS, LEAST_VOICES, LEAST_R, LEAST_GAP = 60, 6, 0.5, 0.35
LEAST_CHANGE = 2.0
LEAST_ORDERED, LEAST_SPREAD = 0.9, 3.0
LEAST_WIDER, LEAST_PAIRS = 0.8, 4
LEAST_OWN = 0.9
LEAST_ROUGHER = 1.5
MOST_GAIN = 0.03
STILL = 4
"""Stream of random numbers of the heads that do not turn."""


class Claim(BaseModel):
    """One of the paper's claims as it is found. bar: in words; found: all numbers behind `holds`."""

    model_config = ConfigDict(extra="forbid")

    letter: str
    says: str
    bar: str
    found: dict[str, Any]
    holds: bool
    pictures: list[str]


@dataclass(frozen=True)
class Scenes:
    """Where the videos of a proof lie, and what they are of."""

    out: Path
    talks: Sequence[str]
    """Names of OUT/voices/*.mp4 and OUT/voices_audio/*.mp4; each two in a row are of one portrait and one noise."""
    anew: Sequence[str]
    """Those of them that are in OUT/joined and OUT/forgetful, too, with a noise of its own for each clip."""
    references: Sequence[Path]
    """Everybody's portrait; the last one's is the face of OUT/minute/minute.mp4, which no clip showed."""
    speakers: Sequence[Look]
    trials: int
    """Seeds under each speed in OUT/speeds."""
    size: int
    """Pixels per side of the videos."""
    clip_frames: int


def judge(scenes: Scenes, on_progress: Callable[[int, int, str], None]) -> None:
    """Watch all videos: OUT/claims.json, and pictures in OUT/claims."""
    pictures = scenes.out / "claims"
    pictures.mkdir(exist_ok=True)
    films = {}
    names = {"voices": scenes.talks, "voices_audio": scenes.talks}
    names |= dict.fromkeys(("joined", "forgetful"), scenes.anew)
    for done, (folder, talks) in enumerate(names.items()):
        films[folder] = [film_of(scenes.out / folder / f"{talk}.mp4") for talk in talks]
        on_progress(done + 1, len(names) + 2, folder)
    speeds, regions = (
        AblationReport.model_validate_json((scenes.out / name / "report.json").read_text())
        for name in ("speeds", "regions")
    )
    floor = still_floor(scenes)
    on_progress(len(names) + 1, len(names) + 2, "a still head")
    claims = [
        of_voice(films["voices"], pictures),
        of_change(films["voices"], pictures),
        of_speeds(speeds, floor, scenes.trials, pictures),
        of_regions(regions),
        of_likeness(scenes, pictures),
        of_joins(films["joined"], films["forgetful"], scenes.clip_frames, pictures),
        of_training_audio(films["voices"], films["voices_audio"], pictures),
    ]
    with whole_file(scenes.out / "claims.json") as unfinished:
        unfinished.write_text(json.dumps([json.loads(claim.model_dump_json()) for claim in claims], indent=2) + "\n")


def heard(films: Sequence[Film]) -> VoiceAndMouth:
    """Of videos of one length."""
    return voice_and_mouth(np.stack([film.opening for film in films]), np.stack([film.loudness for film in films]))


def of_voice(films: Sequence[Film], pictures: Path) -> Claim:
    """(a) EMO 3.2.2."""
    here = heard(films)
    seconds, faces = sum(here.frames) / FPS, min(film.faces for film in films)
    plot_mouths(films, pictures / "a.png")
    enough = seconds >= LEAST_SECONDS and len(films) >= LEAST_VOICES and faces >= LEAST_FACES
    return Claim(
        letter="a",
        says="The voice drives the mouth",
        bar=f"pooled r at lag 0 at least {LEAST_R}, own voice less another's at least {LEAST_GAP}, over "
        f"{LEAST_SECONDS} s and {LEAST_VOICES} voices that no clip holds",
        found={
            "r": here.own,
            "r_interval": here.own_interval,
            "own_less_other": here.own_less_other,
            "own_less_other_interval": here.own_less_other_interval,
            "each": here.each,
            "seconds_with_a_face": seconds,
            "voices": len(films),
            "least_share_of_faces": faces,
        },
        holds=enough and here.own >= LEAST_R and here.own_less_other >= LEAST_GAP,
        pictures=["claims/a.png"],
    )


def of_change(films: Sequence[Film], pictures: Path) -> Claim:
    """(b)."""
    pairs = list(zip(films[::2], films[1::2], strict=True))
    ratios = [mouth_over_rest(*pair) for pair in pairs]
    faces = min(film.faces for film in films)
    plot_changes(pairs, pictures / "b.png")
    return Claim(
        letter="b",
        says="Another voice changes the mouth, not the rest of the face",
        bar=f"mean change around the lips at least {LEAST_CHANGE} times that of the rest of the face",
        found={"mouth_over_rest": float(np.mean(ratios)), "each_portrait": ratios, "least_share_of_faces": faces},
        holds=float(np.mean(ratios)) >= LEAST_CHANGE and faces >= LEAST_FACES,
        pictures=["claims/b.png"],
    )


def of_training_audio(films: Sequence[Film], audio_too: Sequence[Film], pictures: Path) -> Claim:
    """(g) EMO 3.3: the audio layers are not trained together with speed."""
    here, there = heard(films), heard(audio_too)
    gain, gap = there.own - here.own, difference_interval(there, here)
    plot_intervals(
        {"gain in r": (gain, gap)}, 0, "r with the audio layers trained in stage 3, less r without", pictures / "g.png"
    )
    return Claim(
        letter="g",
        says="Training the audio layers together with speed in stage 3 does not help the mouth",
        bar=f"r reaches the bar of (a) without it, and gains at most {MOST_GAIN} by it, which is not told from chance; "
        "one training each",
        found={"r": here.own, "r_audio_trained": there.own, "gain": gain, "gain_interval": gap},
        holds=here.own >= LEAST_R and gain <= MOST_GAIN and gap[0] <= 0,
        pictures=["claims/g.png"],
    )


def of_speeds(report: AblationReport, floor: float, trials: int, pictures: Path) -> Claim:
    """(c) EMO 3.2.5, Table 2. floor: degrees per frame that are measured of a head that speaks and does not turn."""
    table = _by_seed(report, SPEEDS, trials, "velocity_mean")
    in_order = int((np.diff(table, axis=1) > 0).all(axis=1).sum())  # a video without a face is NaN, and in no order
    means = _means(table)
    spread = means[-1] - means[0]
    variances = {row.condition: row.velocity_variance for row in report.rows}
    free = variances.pop(WITHOUT)
    calmer = free is not None and all(value is not None and value < free for value in variances.values())
    plot_speeds(report, floor, pictures / "c.png")
    return Claim(
        letter="c",
        says="Heads turn as fast as they are told",
        bar=f"in the order of {', '.join(SPEEDS)} in {LEAST_ORDERED:.0%} of the seeds; their means {LEAST_SPREAD:g} "
        "floors apart; less variance within a video than without speed layers",
        found={
            "in_order": in_order,
            "seeds": trials,
            "means": dict(zip(SPEEDS, means, strict=True)),
            "still_head_floor": floor,
            "spread_over_floor": spread / floor,
            "variances": variances,
            "variance_without_speed_layers": free,
        },
        holds=in_order >= LEAST_ORDERED * trials and spread >= LEAST_SPREAD * floor and calmer,
        pictures=["claims/c.png", "speeds/sheet.png"],
    )


def still_floor(scenes: Scenes) -> float:
    """Degrees per frame that are measured of crisp heads, made in code, that speak and do not turn."""
    found = []
    for number, look in enumerate(scenes.speakers):
        clip = render_clip(Head(look, scenes.size), [number, STILL], 3, speed=0)
        path = scenes.out / "claims" / f"still{number}.mp4"
        encode_video(path, clip.frames, FPS, clip.sound)
        speed = film_of(path).speed
        found.append(_mean(speed[np.isfinite(speed)]))
    return float(np.mean(found))


def of_regions(report: AblationReport) -> Claim:
    """(d) EMO Figure 7."""
    trials = max(row.videos for row in report.rows)
    table = _by_seed(report, TRIED_REGIONS, trials, "travel_across")
    table = table[np.isfinite(table).all(axis=1)]  # means of the same seeds compare
    means = _means(table)
    wider = float((table[:, -1] > table[:, 0]).mean()) if len(table) else 0.0
    ordered = all(one < other for one, other in pairwise(means))
    return Claim(
        letter="d",
        says="The region bounds how far the face goes",
        bar="mean travel across: tight < auto < wide; wide over tight in "
        f"{LEAST_WIDER:.0%} of {LEAST_PAIRS} or more seeds",
        found={
            "travel_across": dict(zip(TRIED_REGIONS, means, strict=True)),
            "wide_over_tight": wider,
            "seeds": len(table),
        },
        holds=ordered and wider >= LEAST_WIDER and len(table) >= LEAST_PAIRS,
        pictures=["regions/sheet.png", "regions/plot.png"],
    )


def of_likeness(scenes: Scenes, pictures: Path) -> Claim:
    """(e) EMO 3.2.3."""
    film = film_of(scenes.out / "minute/minute.mp4")
    people = [film_of_portrait(path, scenes.size) for path in scenes.references]
    who, distances = nearest(film, people)
    own = len(people) - 1
    share = float((who == own).sum() / len(film.pictures))  # of all: one without a face is nobody's
    write_rows([("a minute", scenes.out / "minute/minute.mp4", None)], pictures / "e.png")
    mistaken = np.bincount(who[who != own], minlength=own)
    return Claim(
        letter="e",
        says="A face that no clip showed stays itself for a minute",
        bar=f"nearer to its own portrait than to anybody else's in {LEAST_OWN:.0%} of the frames",
        found={
            "own": share,
            "frames": len(film.pictures),
            "share_of_faces": film.faces,
            "people": len(people),
            "mistaken_for": {
                path.stem: int(count) for path, count in zip(scenes.references[:own], mistaken, strict=True) if count
            },
            "distance_to_own": _mean(distances[:, own]),
            "distance_to_nearest_other": _mean(distances[:, :own].min(axis=1)),
        },
        holds=share >= LEAST_OWN,
        pictures=["claims/e.png"],
    )


def of_joins(films: Sequence[Film], without: Sequence[Film], clip_frames: int, pictures: Path) -> Claim:
    """(f) EMO 3.2.4. without: the same videos, made without motion frames; in both, each clip's noise is its own."""
    both = films, without
    each = np.array([[joins_over_inside(film, clip_frames) for film in made] for made in both])
    joins, rough = each.mean(axis=1).tolist()
    faces = min(film.faces for made in both for film in made)
    plot_joins({"with motion frames": films[0], "without motion frames": without[0]}, clip_frames, pictures / "f.png")
    rougher = _times(rough, joins)
    return Claim(
        letter="f",
        says="Motion frames join the clips",
        bar=f"without them joins are at least {LEAST_ROUGHER} times rougher, where each clip's noise is its own",
        found={
            "joins": joins,
            "joins_without": rough,
            "rougher": rougher,
            "each_portrait": [_times(*pair) for pair in each[::-1].T.tolist()],
            "least_share_of_faces": faces,
        },
        holds=rougher >= LEAST_ROUGHER and faces >= LEAST_FACES,
        pictures=["claims/f.png"],
    )


def _by_seed(report: AblationReport, conditions: Sequence[str], trials: int, key: str) -> np.ndarray:
    """float64 (trials, conditions): NaN for a video that does not count."""
    table = np.full((trials, len(conditions)), np.nan)
    for one in report.videos:
        if one.condition in conditions and (value := getattr(one, key)) is not None:
            table[int(Path(one.video).stem.rpartition("_")[2]), conditions.index(one.condition)] = value
    return table


def _means(table: np.ndarray) -> list[float]:
    return [_mean(column[np.isfinite(column)]) for column in table.T]


def _times(much: float, little: float) -> float:
    """NaN of nothing."""
    return much / little if little else float("nan")


def _mean(values: np.ndarray) -> float:
    """NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")

"""What the paper claims, shown on the small model: seven claims, each with its number, its bar and a picture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from emo_data.schema import FPS
from emo_data.whole import whole_file
from flows.doctor import versions
from flows.progress import Phase, Report, progress
from flows.road import Road, write_json

if TYPE_CHECKING:
    import torch

    from emo_core.evaluation.ablation import AblationReport
    from emo_core.evaluation.claims import Film, VoiceAndMouth
    from emo_core.evaluation.trial import Trial
    from emo_core.inference.generate import Loaded

NAMES = ["sample", "ingest", "stage 1", "stage 2", "stage 3 audio", "stage 3", "cast", "voices", "voices audio"]
NAMES += ["forgetful", "speeds", "regions", "minute", "claims"]
SPEEDS = ("0.1", "0.7", "1.3")
REGIONS = ("tight", "auto", "wide")
PORTRAITS = 3
"""That speak: the held-out look and two people of the clips."""
FORGETFUL = 2
"""Voices that are spoken without motion frames."""
LEAST_R, LEAST_GAP = 0.5, 0.35
LEAST_CHANGE = 2.0
LEAST_ORDERED, LEAST_SPREAD = 0.9, 3.0
LEAST_OWN = 0.9
LEAST_ROUGHER = 1.5
"""The claims' bars."""
STILL = 4
"""Stream of random numbers of the heads that do not turn."""


class ProofSettings(BaseModel):
    """The numbers of the proof: three quarters of an hour on two cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    looks: int = 5
    """People in the clips; one more, whom no clip shows, is the held-out look."""
    clips: int = 30
    seconds: float = 5.0
    seed: int = 0
    stage_steps: tuple[int, int, int] = (2000, 800, 200)
    sampling_steps: int = 8
    reference_scale: float = 1.0
    audio_scale: float = 4.5
    voices: int = 6
    """That no clip holds; two speak from each portrait."""
    voice_seconds: float = 11.0
    trials: int = 10
    """Seeds under each speed, and half as many under each region."""
    trial_seconds: float = 3.0
    minute_seconds: float = 60.0


class Claim(BaseModel):
    """One of the paper's claims as it is found. bar: in words; found: all numbers behind `holds`."""

    model_config = ConfigDict(extra="forbid")

    letter: str
    says: str
    bar: str
    found: dict[str, Any]
    holds: bool
    pictures: list[str]


def proof(out: Path, settings: ProofSettings, device: "torch.device", phase: Phase = progress) -> dict[str, Any]:
    """Train on faces made in code, let the model speak, measure: report.json, report.md and claims/*.png in `out`.

    Returns report.json. What an earlier call finished with the same settings is reused. UserError where `out` holds
    anything else. phase: shows each step.
    """
    road = Road.into(out, NAMES, "proof", phase)
    road.gather(settings.clips, settings.seconds, settings.seed, settings.looks)
    _train(road, settings, device)
    _perform(road, settings, device)
    road.step("claims", {}, ["claims.json", "claims"], lambda report: _judge(out, settings, report))
    report = {
        "claims": json.loads((out / "claims.json").read_text()),
        **road.cost(),
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
    }
    write_json(out / "report.json", report)
    with whole_file(out / "report.md") as unfinished:
        unfinished.write_text(_page(report), encoding="utf-8")
    return report


def _train(road: Road, settings: ProofSettings, device: "torch.device") -> None:
    from emo_core.training.recipes import stage_recipe

    init = None
    for stage, steps in enumerate(settings.stage_steps, start=1):
        recipe = stage_recipe(stage, "tiny").model_copy(update={"seed": settings.seed, "steps": steps})
        if stage == 3:
            road.train("stage 3 audio", recipe.model_copy(update={"train_audio": True}), init, device)
        init = road.train(f"stage {stage}", recipe, init, device)


@dataclass(frozen=True)
class _Cast:
    """Who speaks, and with which unheard voices."""

    references: list[Path]
    """Portraits of everybody, the held-out look last."""
    voices: list[Path]
    short: list[Path]
    minute: Path

    @classmethod
    def of(cls, folder: Path, settings: ProofSettings) -> Self:
        from emo_data.synthetic.cast import write_cast
        from emo_data.synthetic.look import looks_of

        everybody = looks_of(settings.looks + 1)
        references, voices = write_cast(folder, everybody, settings.voices, settings.voice_seconds)
        _, short = write_cast(folder / "short", [], settings.trials, settings.trial_seconds, seed=1)
        _, (minute,) = write_cast(folder / "minute", [], 1, settings.minute_seconds, seed=2)
        return cls(references, voices, short, minute)

    @property
    def portraits(self) -> list[Path]:
        """The held-out look and some of the clips' people."""
        return [self.references[-1], *self.references[1:PORTRAITS]]

    def talks(self) -> "list[Trial]":
        """Two voices from each portrait, with the same noise."""
        from emo_core.evaluation.trial import Trial

        return [
            Trial(f"voice{number}", self.portraits[number // 2 % PORTRAITS], voice, seed=number // 2)
            for number, voice in enumerate(self.voices)
        ]


def _perform(road: Road, settings: ProofSettings, device: "torch.device") -> None:
    """All videos that the claims are judged by."""
    from emo_core.evaluation.ablation import Cast, ablate_region, ablate_speed
    from emo_core.evaluation.exhibit import write_ablation
    from emo_core.evaluation.trial import Trial, forgetful, make_videos
    from emo_core.inference.generate import load_pipeline
    from emo_core.inference.sampling import Sampling

    out = road.out
    sampling = Sampling(settings.sampling_steps, settings.reference_scale, settings.audio_scale)
    road.step("cast", settings, ["cast"], lambda _: _Cast.of(out / "cast", settings))
    cast = _Cast.of(out / "cast", settings)
    several = Cast(cast.portraits, cast.short, settings.trials)
    fewer = Cast(cast.portraits, cast.short, -(-settings.trials // 2))
    trained, audio_too, silent = (
        load_pipeline(out / f"runs/{run}/model", device) for run in ("stage3", "stage3audio", "stage2")
    )

    def speeds(report: Report) -> None:
        found = ablate_speed(trained, silent, several, sampling, out / "speeds", report, SPEEDS)
        write_ablation(found, out / "speeds")

    def regions(report: Report) -> None:
        write_ablation(ablate_region(trained, fewer, sampling, out / "regions", report, REGIONS), out / "regions")

    def talks(loaded: "Loaded", folder: str, report: Report) -> None:
        make_videos(loaded, cast.talks(), sampling, out / folder, report)

    def forget(report: Report) -> None:
        how = forgetful(trained.pipeline)
        make_videos(trained, cast.talks()[:FORGETFUL], sampling, out / "forgetful", report, how)

    road.step("voices", {}, ["voices"], lambda report: talks(trained, "voices", report))
    road.step("voices audio", {}, ["voices_audio"], lambda report: talks(audio_too, "voices_audio", report))
    road.step("forgetful", {}, ["forgetful"], forget)
    road.step("speeds", {}, ["speeds"], speeds)
    road.step("regions", {}, ["regions"], regions)
    minute = [Trial("minute", cast.portraits[0], cast.minute)]
    road.step("minute", {}, ["minute"], lambda report: make_videos(trained, minute, sampling, out / "minute", report))


def _judge(out: Path, settings: ProofSettings, report: Report) -> None:
    """Watch all videos: claims.json, and a picture for each claim in claims/."""
    from emo_core.evaluation.claims import film_of

    cast = _Cast.of(out / "cast", settings)
    pictures = out / "claims"
    pictures.mkdir(exist_ok=True)
    films = {}
    folders = ("voices", "voices_audio", "forgetful")
    for done, folder in enumerate(folders):
        made = (out / folder / f"{trial.name}.mp4" for trial in cast.talks())
        films[folder] = [film_of(path) for path in made if path.exists()]
        report(done + 1, len(folders) + 2, folder)
    claims = [
        *_of_voices(films["voices"], films["voices_audio"], pictures),
        _of_speeds(out, settings, pictures),
        _of_regions(out),
    ]
    report(len(folders) + 1, len(folders) + 2, "minute")
    claims += [_of_likeness(out, cast, pictures), _of_joins(films["voices"], films["forgetful"], pictures)]
    claims.sort(key=lambda claim: claim.letter)
    write_json(out / "claims.json", [json.loads(claim.model_dump_json()) for claim in claims])


def _of_voices(films: "list[Film]", audio_too: "list[Film]", pictures: Path) -> list[Claim]:
    """(a), (b) and (g)."""
    from emo_core.evaluation.claims import difference_interval, mouth_over_rest, voice_and_mouth
    from emo_core.evaluation.claims_plot import plot_changes, plot_intervals, plot_mouths

    def heard(made: "list[Film]") -> "VoiceAndMouth":
        return voice_and_mouth(np.stack([film.opening for film in made]), np.stack([film.loudness for film in made]))

    here, there = heard(films), heard(audio_too)
    pairs = list(zip(films[::2], films[1::2], strict=True))
    ratios = [mouth_over_rest(*pair) for pair in pairs]
    gap = difference_interval(there, here)
    plot_mouths(films, pictures / "a.png")
    plot_changes(pairs, pictures / "b.png")
    plot_intervals(
        {
            "its own voice": (here.own, here.own_interval),
            "own less another's": (here.own_less_other, here.own_less_other_interval),
            "audio layers trained in stage 3, too": (there.own, there.own_interval),
        },
        LEAST_R,
        pictures / "g.png",
    )
    return [
        Claim(
            letter="a",
            says="The voice drives the mouth",
            bar=f"pooled r at lag 0 at least {LEAST_R}, own voice less another's at least {LEAST_GAP}",
            found={
                "seconds": sum(len(film.pictures) for film in films) / FPS,
                "voices": len(films),
                "r": here.own,
                "r_interval": here.own_interval,
                "own_less_other": here.own_less_other,
                "own_less_other_interval": here.own_less_other_interval,
                "faces": min(film.faces for film in films),
            },
            holds=here.own >= LEAST_R and here.own_less_other >= LEAST_GAP,
            pictures=["claims/a.png"],
        ),
        Claim(
            letter="b",
            says="Another voice changes the mouth, not the rest of the face",
            bar=f"mean change around the lips at least {LEAST_CHANGE} times that of the rest of the face",
            found={"mouth_over_rest": float(np.mean(ratios)), "each": ratios},
            holds=float(np.mean(ratios)) >= LEAST_CHANGE,
            pictures=["claims/b.png"],
        ),
        Claim(
            letter="g",
            says="Training the audio layers together with speed in stage 3 does not help the mouth",
            bar="the 95 % interval of the gain in r is not above 0",
            found={"r": here.own, "r_audio_trained": there.own, "gain": there.own - here.own, "gain_interval": gap},
            holds=gap[0] <= 0,
            pictures=["claims/g.png"],
        ),
    ]


def _of_speeds(out: Path, settings: ProofSettings, pictures: Path) -> Claim:
    from emo_core.evaluation.ablation import WITHOUT, AblationReport
    from emo_core.evaluation.claims_plot import plot_speeds

    report = AblationReport.model_validate_json((out / "speeds/report.json").read_text())
    floor = _still_floor(out, settings)
    table = np.array([[_found(report, speed, f"{seed:03d}") for speed in SPEEDS] for seed in range(settings.trials)])
    means = [_mean(column[np.isfinite(column)]) for column in table.T]
    in_order = int((np.diff(table, axis=1) > 0).all(axis=1).sum())  # a video without a face is NaN, and in no order
    rows = {row.condition: row for row in report.rows}
    spread = means[-1] - means[0]
    variances = {name: row.velocity_variance for name, row in rows.items()}
    free = variances.pop(WITHOUT)
    calmer = free is not None and all(value is not None and value < free for value in variances.values())
    plot_speeds(report, floor, pictures / "c.png")
    return Claim(
        letter="c",
        says="Heads turn as fast as they are told",
        bar=f"in the order of {', '.join(SPEEDS)} in {LEAST_ORDERED:.0%} of the seeds; their means {LEAST_SPREAD} "
        "floors apart; less variance within a video than without speed layers",
        found={
            "in_order": in_order,
            "seeds": settings.trials,
            "means": dict(zip(SPEEDS, means, strict=True)),
            "still_head_floor": floor,
            "spread_over_floor": spread / floor,
            "variances": variances,
            "variance_without_speed_layers": free,
        },
        holds=in_order >= LEAST_ORDERED * settings.trials and spread >= LEAST_SPREAD * floor and calmer,
        pictures=["claims/c.png", "speeds/sheet.png"],
    )


def _found(report: "AblationReport", condition: str, seed: str) -> float:
    (one,) = (one for one in report.videos if one.condition == condition and Path(one.video).stem.endswith(f"_{seed}"))
    return float("nan") if one.velocity_mean is None else one.velocity_mean


def _still_floor(out: Path, settings: ProofSettings) -> float:
    """Degrees per frame that are measured of a head that speaks and does not turn: what no model can be below."""
    from emo_core.evaluation.claims import film_of
    from emo_core.model.config import tiny
    from emo_data.film import encode_video
    from emo_data.synthetic.head import Head
    from emo_data.synthetic.look import looks_of
    from emo_data.synthetic.sample import render_clip

    found = []
    for number, look in enumerate(looks_of(PORTRAITS)):
        clip = render_clip(Head(look, tiny().size), [number, STILL], settings.trial_seconds, speed=0)
        path = out / "claims" / f"still{number}.mp4"
        encode_video(path, clip.frames, FPS, clip.sound)
        speed = film_of(path).speed
        found.append(_mean(speed[np.isfinite(speed)]))
    return float(np.mean(found))


def _of_regions(out: Path) -> Claim:
    from emo_core.evaluation.ablation import AblationReport

    report = AblationReport.model_validate_json((out / "regions/report.json").read_text())
    across = {row.condition: row.travel_across for row in report.rows}
    tight, auto, wide = (across[region] for region in REGIONS)
    return Claim(
        letter="d",
        says="The region bounds how far the face goes",
        bar="mean travel across: tight < auto < wide",
        found={"travel_across": across, "counted": {row.condition: row.counted for row in report.rows}},
        holds=tight is not None and auto is not None and wide is not None and tight < auto < wide,
        pictures=["regions/sheet.png", "regions/plot.png"],
    )


def _of_likeness(out: Path, cast: _Cast, pictures: Path) -> Claim:
    from emo_core.evaluation.claims import film_of, film_of_portrait, nearest
    from emo_core.evaluation.exhibit import write_rows
    from emo_core.model.config import tiny

    film = film_of(out / "minute/minute.mp4")
    who, distances = nearest(film, [film_of_portrait(path, tiny().size) for path in cast.references])
    own = len(cast.references) - 1
    share = float((who == own).sum() / len(film.pictures))  # of all: one without a face is nobody's
    write_rows([("a minute", out / "minute/minute.mp4", None)], pictures / "e.png")
    others = np.bincount(who[who != own], minlength=own)
    return Claim(
        letter="e",
        says="A face that no clip showed stays itself for a minute",
        bar=f"nearer to its own portrait than to anybody else's in {LEAST_OWN:.0%} of the frames",
        found={
            "own": share,
            "frames": len(film.pictures),
            "faces": film.faces,
            "people": len(cast.references),
            "mistaken_for": {cast.references[other].stem: int(count) for other, count in enumerate(others) if count},
            "distance_to_own": _mean(distances[:, own]),
            "distance_to_nearest_other": _mean(distances[:, :own].min(axis=1)),
        },
        holds=share >= LEAST_OWN,
        pictures=["claims/e.png"],
    )


def _of_joins(films: "list[Film]", without: "list[Film]", pictures: Path) -> Claim:
    from emo_core.evaluation.claims import joins_over_inside
    from emo_core.evaluation.claims_plot import plot_joins
    from emo_core.model.config import tiny

    frames = tiny().frames
    both = (films[: len(without)], without)
    joins, rough = (float(np.mean([joins_over_inside(film, frames) for film in made])) for made in both)
    shown = {"with motion frames": films[0], "without motion frames": without[0]}
    plot_joins(shown, frames, pictures / "f.png")
    return Claim(
        letter="f",
        says="Motion frames join the clips",
        bar=f"without them joins are at least {LEAST_ROUGHER} times rougher",
        found={"joins": joins, "joins_without": rough, "rougher": rough / joins},
        holds=rough / joins >= LEAST_ROUGHER,
        pictures=["claims/f.png"],
    )


def _mean(values: np.ndarray) -> float:
    """NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def _page(report: dict[str, Any]) -> str:
    """report.md: each claim with its number and its picture."""
    lines = ["# What the paper claims, on the small model", ""]
    lines += ["| | claim | bar | found | |", "| --- | --- | --- | --- | --- |"]
    for claim in report["claims"]:
        told = ", ".join(f"{name} {_told(value)}" for name, value in claim["found"].items())
        mark = "holds" if claim["holds"] else "**does not hold at this size**"
        lines.append(f"| {claim['letter']} | {claim['says']} | {claim['bar']} | {told} | {mark} |")
    for claim in report["claims"]:
        lines += ["", f"## ({claim['letter']}) {claim['says']}", ""]
        lines += [f"![{claim['says']}]({picture})" for picture in claim["pictures"]]
    return "\n".join([*lines, ""])


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_told(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " to ".join(_told(one) for one in value) if len(value) == 2 else " ".join(_told(one) for one in value)
    return str(value)

"""What the paper claims, shown on the small model: seven claims, each with its number, its bar and a picture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from emo_data.whole import whole_file
from flows.doctor import versions
from flows.progress import Phase, Report, progress
from flows.road import Road, rehearsed, write_json

if TYPE_CHECKING:
    import torch

    from emo_core.evaluation.trial import Trial
    from emo_core.inference.generate import Loaded

NAMES = ["sample", "ingest", "stage 1", "stage 2", "stage 3 audio", "stage 3", "cast", "voices", "voices audio"]
NAMES += ["joined", "forgetful", "speeds", "regions", "minute", "claims"]
PORTRAITS = 3
"""That speak: the held-out look and two people of the clips."""


class ProofSettings(BaseModel):
    """The numbers of the proof: an hour on two cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    looks: int = Field(default=16, ge=2)
    """People in the clips; one more, whom no clip shows, is the held-out look."""
    clips: int = 32
    seconds: float = 4.0
    seed: int = 0
    stage_steps: tuple[int, int, int] | None = None
    """Other than those of the patient recipes."""
    sampling_steps: int = 8
    reference_scale: float = 1.0
    audio_scale: float = 2.5
    voices: int = Field(default=6, ge=2, multiple_of=2)
    """That no clip holds; two speak from each portrait."""
    voice_seconds: float = 11.0
    trials: int = 10
    """Seeds under each speed, and half as many under each region."""
    trial_seconds: float = 3.0
    minute_seconds: float = 60.0


def proof(out: Path, settings: ProofSettings, device: "torch.device", phase: Phase = progress) -> dict[str, Any]:
    """Train on faces made in code, let the model speak, measure: report.json, report.md and claims/*.png in `out`.

    Returns report.json. What an earlier call finished with the same settings is reused. UserError where `out` holds
    anything else. phase: shows each step.
    """
    road = Road.into(out, NAMES, "proof", phase)
    road.gather(settings.clips, settings.seconds, settings.seed, settings.looks)
    _perform(road, settings, device, _train(road, settings, device))
    _judge(road, settings)
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


def _train(road: Road, settings: ProofSettings, device: "torch.device") -> dict[str, Path]:
    """The models, by the step that made each."""
    from emo_core.training.recipes import patient

    init, runs = None, dict[str, str]()
    for stage in (1, 2, 3):
        recipe = rehearsed(patient(stage), settings.seed, settings.stage_steps)
        if stage == 3:
            too = recipe.model_copy(update={"train_audio": True})
            runs["stage 3 audio"] = road.train("stage 3 audio", too, init, device)
        init = runs[f"stage {stage}"] = road.train(f"stage {stage}", recipe, init, device)
    return {name: road.out / run / "model" for name, run in runs.items()}


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

    def anew(self) -> "list[Trial]":
        """One of the talks from each portrait, to be given again with a noise of its own for each clip."""
        return self.talks()[::2]


def _perform(road: Road, settings: ProofSettings, device: "torch.device", models: dict[str, Path]) -> None:
    """All videos that the claims are judged by."""
    from emo_core.evaluation.ablation import Cast, ablate_region, ablate_speed
    from emo_core.evaluation.exhibit import write_ablation
    from emo_core.evaluation.trial import Trial, make_videos, noise_anew
    from emo_core.evaluation.verdicts import SPEEDS, TRIED_REGIONS
    from emo_core.inference.generate import load_pipeline
    from emo_core.inference.sampling import Sampling

    out = road.out
    sampling = Sampling(settings.sampling_steps, settings.reference_scale, settings.audio_scale)
    road.step("cast", settings, ["cast"], lambda _: _Cast.of(out / "cast", settings))
    cast = _Cast.of(out / "cast", settings)
    several = Cast(cast.portraits, cast.short, settings.trials)
    fewer = Cast(cast.portraits, cast.short, -(-settings.trials // 2))
    trained, audio_too, silent = (
        load_pipeline(models[name], device) for name in ("stage 3", "stage 3 audio", "stage 2")
    )

    def speeds(report: Report) -> None:
        found = ablate_speed(trained, silent, several, sampling, out / "speeds", report, SPEEDS)
        write_ablation(found, out / "speeds")

    def regions(report: Report) -> None:
        write_ablation(ablate_region(trained, fewer, sampling, out / "regions", report, TRIED_REGIONS), out / "regions")

    def talks(loaded: "Loaded", folder: str, report: Report) -> None:
        make_videos(loaded, cast.talks(), sampling, out / folder, report)

    def anew(folder: str, report: Report, *, remembering: bool) -> None:
        how = noise_anew(trained.pipeline, remembering=remembering)
        make_videos(trained, cast.anew(), sampling, out / folder, report, how)

    road.step("voices", {}, ["voices"], lambda report: talks(trained, "voices", report))
    road.step("voices audio", {}, ["voices_audio"], lambda report: talks(audio_too, "voices_audio", report))
    road.step("joined", {}, ["joined"], lambda report: anew("joined", report, remembering=True))
    road.step("forgetful", {}, ["forgetful"], lambda report: anew("forgetful", report, remembering=False))
    road.step("speeds", {}, ["speeds"], speeds)
    road.step("regions", {}, ["regions"], regions)
    minute = [Trial("minute", cast.portraits[0], cast.minute)]
    road.step("minute", {}, ["minute"], lambda report: make_videos(trained, minute, sampling, out / "minute", report))


def _judge(road: Road, settings: ProofSettings) -> None:
    from emo_core.evaluation.verdicts import VERSION, Scenes, judge
    from emo_core.model.config import tiny
    from emo_data.synthetic.look import looks_of

    cast = _Cast.of(road.out / "cast", settings)
    everybody = looks_of(settings.looks + 1)
    scenes = Scenes(
        out=road.out,
        talks=[talk.name for talk in cast.talks()],
        anew=[talk.name for talk in cast.anew()],
        references=cast.references,
        speakers=[everybody[-1], *everybody[1:PORTRAITS]],
        trials=settings.trials,
        size=tiny().size,
        clip_frames=tiny().frames,
    )
    road.step("claims", {"version": VERSION}, ["claims.json", "claims"], lambda report: judge(scenes, report))


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

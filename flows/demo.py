"""The whole road on this machine, from nothing: sample, ingest, three stages, generate; and a report of it."""

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from flows.doctor import versions
from flows.progress import Report
from flows.road import Road, rehearsed, write_json

if TYPE_CHECKING:
    import torch

EVERYTHING = {"min_picture": 1, "min_face": 1, "min_detection_rate": 0.01}


class DemoSettings(BaseModel):
    """The numbers of the demo: minutes on two cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clips: int = 16
    seconds: float = 5.0
    looks: int = 2
    seed: int = 0
    stage_steps: tuple[int, int, int] | None = None
    """Other than those of the small recipes."""
    sampling_steps: int = 8
    reference_scale: float = 1.0
    audio_scale: float = 3.0
    speed: str = "calm"


def demo(out: Path, settings: DemoSettings, device: "torch.device") -> dict[str, Any]:
    """Leave sample/, data/, runs/, losses.png, model/, talking.mp4 and .png, measures in `out`; return report.json.

    What an earlier call finished with the same settings is reused. UserError where `out` holds anything else.
    """
    from emo_core.inference.generate import Request, generate, load_pipeline
    from emo_core.inference.sampling import Sampling
    from emo_core.training.plot import plot_losses
    from emo_core.training.recipes import stage_recipe

    sample, model, video, losses = out / "sample", out / "model", out / "talking.mp4", out / "losses.png"
    sampling = Sampling(settings.sampling_steps, settings.reference_scale, settings.audio_scale, settings.seed)
    names = ["sample", "ingest", "stage 1", "stage 2", "stage 3", "losses", "generate", "measure"]
    runs: dict[str, str] = {}
    road = Road.into(out, names, "demo")

    def train_stage(stage: int) -> str:
        recipe = rehearsed(stage_recipe(stage, "tiny"), settings.seed, settings.stage_steps)
        return road.train(f"stage {stage}", recipe, runs.get(f"stage {stage - 1}"), device)

    def make_plot(_: Report) -> None:
        plot_losses({name: str(out / run) for name, run in runs.items()}, losses)

    def make_video(report: Report) -> None:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(out / runs["stage 3"] / "model", model)
        portrait, voice = sample / "held_out/portrait.png", sample / "held_out/voice.wav"
        request = Request(portrait, voice, video, settings.speed, sampling=sampling, preview=video.with_suffix(".png"))
        generate(load_pipeline(model, device), request, report)

    form = road.gather(settings.clips, settings.seconds, settings.seed, settings.looks)
    for stage in (1, 2, 3):
        runs[f"stage {stage}"] = train_stage(stage)
    road.step("losses", {}, ["losses.png"], make_plot)
    road.step(
        "generate",
        settings.model_dump(include={"sampling_steps", "reference_scale", "audio_scale", "speed"}),
        ["model", "talking.mp4", "talking.json", "talking.png"],
        make_video,
    )
    road.step(
        "measure",
        {},
        ["measures.json"],
        lambda _: write_json(out / "measures.json", _measure(video, form.model_dump())),
    )
    report = {
        "video": str(video),
        **road.cost(),
        "measures": json.loads((out / "measures.json").read_text()),
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
    }
    write_json(out / "report.json", report)
    return report


def _measure(video: Path, form: dict[str, Any]) -> dict[str, Any]:
    """The finished video through the eyes of ingestion, which knows nothing of how it came about."""
    from emo_data.ingest.config import IngestConfig
    from emo_data.ingest.run import ingest
    from emo_data.store import Dataset

    # However small the picture, and however often the face is lost: here that is what is to be found out.
    form = form | {"max_seconds": 3600, "chunk_seconds": 7204, "thresholds": EVERYTHING}
    with tempfile.TemporaryDirectory() as folder:
        ingest([str(video)], f"{folder}/seen", IngestConfig.model_validate(form))
        seen = Dataset.open(f"{folder}/seen")
        _, table = seen.clips(["start_seconds", "frames", "detection_rate", "mouth_sound_correlation"])
        clips = table.sort_by("start_seconds").to_pylist()
        reasons = seen.rejections(["reason"]).column("reason").to_pylist()
    return {
        "frames": sum(clip["frames"] for clip in clips),
        "rejected": reasons,
        "faces": [round(clip["detection_rate"], 4) for clip in clips],
        "mouth_follows_voice": [_number(clip["mouth_sound_correlation"]) for clip in clips],
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return round(value, 4) if math.isfinite(value) else None

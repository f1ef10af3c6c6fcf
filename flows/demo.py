"""The whole road on this machine, from nothing: sample, ingest, three stages, generate; and a report of it."""

import hashlib
import json
import math
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import BaseModel, ConfigDict

from emo_data.errors import UserError
from emo_data.whole import whole_file
from flows.doctor import versions
from flows.progress import Report, progress

if TYPE_CHECKING:
    import torch

EVERYTHING = {"min_picture": 1, "min_face": 1, "min_detection_rate": 0.01}
RECORD = "steps.json"
"""What each step was made from, and what it took; a step is done again when it would be made from something else."""


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


@dataclass
class _Road:
    """The steps so far. Each is tied to its settings and to all that came before it."""

    out: Path
    steps: dict[str, dict[str, Any]]
    names: list[str]
    trail: str = ""
    walked: list[str] = field(default_factory=list)

    def step(
        self, name: str, settings: BaseModel | dict[str, Any], results: list[str], work: Callable[[Report], object]
    ) -> None:
        """Do the work unless its results are there, made from the same settings and the same steps before."""
        form = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else settings
        self.trail = hashlib.sha256(json.dumps([self.trail, name, form]).encode()).hexdigest()[:16]
        self.walked.append(name)
        label = f"{len(self.walked)}/{len(self.names)} {name}"
        earlier = self.steps.get(name, {})
        paths = [self.out / result for result in results]
        if earlier.get("made_from") != self.trail:
            for path in paths:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            self._record(name, {"made_from": self.trail})
        elif "seconds" in earlier and all(path.exists() for path in paths):
            print(f"{label}: done before", file=sys.stderr)
            return
        entry = self.steps[name]
        start, before = time.monotonic(), entry.get("seconds_so_far", 0.0)
        try:
            with progress(label) as report, _Watch() as watch:
                work(report)
        finally:
            entry["seconds_so_far"] = round(before + time.monotonic() - start, 1)
            self._record(name, entry)
        self._record(name, {**entry, "seconds": entry["seconds_so_far"], "peak_mib": watch.most})

    def _record(self, name: str, entry: dict[str, Any]) -> None:
        self.steps[name] = entry
        _write_json(self.out / RECORD, self.steps)


def demo(out: Path, settings: DemoSettings, device: "torch.device") -> dict[str, Any]:
    """Leave sample/, data/, runs/, losses.png, model/, talking.mp4 and .png, measures in `out`; return report.json.

    What an earlier call finished with the same settings is reused. UserError where `out` holds anything else.
    """
    from emo_core.inference.generate import Request, generate, load_pipeline
    from emo_core.inference.sampling import Sampling
    from emo_core.model.config import tiny as tiny_model
    from emo_core.training.plan import plan
    from emo_core.training.plot import plot_losses
    from emo_core.training.recipes import stage_recipe
    from emo_core.training.run import carry_out
    from emo_data.ingest.config import IngestConfig
    from emo_data.ingest.run import ingest
    from emo_data.synthetic.sample import VERSION, write_sample

    sample, data, model, video = out / "sample", out / "data", out / "model", out / "talking.mp4"
    losses, latents = out / "losses.png", out / "latents"
    form = IngestConfig(
        size=tiny_model().size, audio_model="tiny", identity_pattern=r"^(look\d+)_", test_share=0.0
    )  # nobody is held out here: the voice and the motion of the video come from sample/held_out
    sampling = Sampling(settings.sampling_steps, settings.reference_scale, settings.audio_scale, settings.seed)
    names = ["sample", "ingest", "stage 1", "stage 2", "stage 3", "losses", "generate", "measure"]
    road = _Road(out, _earlier_steps(out), names)

    def train_stage(stage: int) -> None:
        recipe = stage_recipe(stage, "tiny").model_copy(update={"seed": settings.seed})
        if settings.stage_steps is not None:
            recipe = recipe.model_copy(update={"steps": settings.stage_steps[stage - 1]})
        run, init = f"runs/stage{stage}", out / f"runs/stage{stage - 1}/model" if stage > 1 else None
        road.step(
            f"stage {stage}",
            {"recipe": recipe.model_dump(mode="json"), "model": tiny_model().model_dump(mode="json")},
            [run],
            lambda report: carry_out(
                plan(recipe, str(data), out / run, init, cache=str(latents)), device, on_step=report
            ),
        )

    def make_plot(_: Report) -> None:
        plot_losses({name: str(out / f"runs/{name.replace(' ', '')}") for name in names[2:5]}, losses)

    def make_sample(report: Report) -> None:
        write_sample(
            sample,
            clips=settings.clips,
            seconds=settings.seconds,
            seed=settings.seed,
            looks=settings.looks,
            on_progress=report,
        )

    def make_video(report: Report) -> None:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(out / "runs/stage3/model", model)
        portrait, voice = sample / "held_out/portrait.png", sample / "held_out/voice.wav"
        request = Request(portrait, voice, video, settings.speed, sampling=sampling, preview=video.with_suffix(".png"))
        generate(load_pipeline(model, device), request, report)

    road.step(
        "sample",
        {**settings.model_dump(include={"clips", "seconds", "seed", "looks"}), "version": VERSION},
        ["sample"],
        make_sample,
    )
    road.step(
        "ingest",
        form,
        ["data"],
        lambda report: ingest([str(sample / "clips")], str(data), form, phase=lambda _: nullcontext(report)),
    )
    for stage in (1, 2, 3):
        train_stage(stage)
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
        lambda _: _write_json(out / "measures.json", _measure(video, form.model_dump())),
    )
    report = {
        "video": str(video),
        "seconds": {name: road.steps[name]["seconds"] for name in names},
        "seconds_in_all": round(sum(road.steps[name]["seconds"] for name in names), 1),
        "peak_mib": max(road.steps[name]["peak_mib"] for name in names),
        "measures": json.loads((out / "measures.json").read_text()),
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
    }
    _write_json(out / "report.json", report)
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


def _earlier_steps(out: Path) -> dict[str, dict[str, Any]]:
    if (out / RECORD).exists():
        return dict(json.loads((out / RECORD).read_text()))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: holds something other than an earlier demo; name a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    return {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")


class _Watch:
    """Most memory that this process and its children hold together while the block runs, MiB, looked at now and then.

    The system's own record of children counts what each shares with its parent when it is started.
    """

    def __init__(self) -> None:
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="memory")

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        here = psutil.Process()
        while True:
            held = 0
            for process in [here, *here.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    held += process.memory_info().rss
            self.most = max(self.most, round(held / 2**20))
            if self._over.wait(0.5):
                return

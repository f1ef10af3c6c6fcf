"""A row of steps in one folder: each is done once, and again only when it would be made from something else."""

import hashlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
from pydantic import BaseModel

from emo_data.errors import UserError
from emo_data.whole import whole_file
from flows.progress import Phase, Report, progress

if TYPE_CHECKING:
    import torch

    from emo_core.training.recipes import Recipe
    from emo_data.ingest.config import IngestConfig

RECORD = "steps.json"
"""What each step was made from, and what it took."""


@dataclass
class Road:
    """The steps so far. Each is tied to its settings and to all that came before it. names: of all that there are."""

    out: Path
    steps: dict[str, dict[str, Any]]
    names: list[str]
    phase: Phase = progress
    trail: str = ""
    walked: list[str] = field(default_factory=list)

    @classmethod
    def into(cls, out: Path, names: list[str], what: str, phase: Phase = progress) -> Self:
        """Begin in `out`, or go on with what an earlier call left there. UserError where it holds anything else.

        what: it is called, to tell. phase: shows each step while it is walked."""
        if (out / RECORD).exists():
            return cls(out, dict(json.loads((out / RECORD).read_text())), names, phase)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--out {out}: holds something other than an earlier {what}; name a new or empty folder")
        out.mkdir(parents=True, exist_ok=True)
        return cls(out, {}, names, phase)

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
        elif "seconds" in earlier:
            if all(path.exists() for path in paths):
                print(f"{label}: done before", file=sys.stderr)
                return
            self._record(name, {"made_from": self.trail})  # from here on it counts as unfinished
        entry = self.steps[name]
        start, before = time.monotonic(), entry.get("seconds_so_far", 0.0)
        try:
            with self.phase(label) as report, _Watch() as watch:
                work(report)
        finally:
            entry["seconds_so_far"] = round(before + time.monotonic() - start, 1)
            self._record(name, entry)
        self._record(name, {**entry, "seconds": entry["seconds_so_far"], "peak_mib": watch.most})

    def gather(self, clips: int, seconds: float, seed: int, looks: int) -> "IngestConfig":
        """Two steps, sample and ingest: faces made in code in OUT/sample, and OUT/data for the small model.

        Nobody is held out in there: what a model is tried with does not come from the clips.
        """
        from emo_core.model.config import tiny
        from emo_data.ingest.config import IngestConfig
        from emo_data.ingest.run import ingest
        from emo_data.synthetic.sample import VERSION, write_sample

        sample, data = self.out / "sample", self.out / "data"
        form = IngestConfig(size=tiny().size, audio_model="tiny", identity_pattern=r"^(look\d+)_", test_share=0.0)
        made = {"clips": clips, "seconds": seconds, "seed": seed, "looks": looks}
        self.step(
            "sample",
            {**made, "version": VERSION},
            ["sample"],
            lambda report: write_sample(
                sample, clips=clips, seconds=seconds, seed=seed, looks=looks, on_progress=report
            ),
        )
        self.step(
            "ingest",
            form,
            ["data"],
            lambda report: ingest([str(sample / "clips")], str(data), form, phase=lambda _: nullcontext(report)),
        )
        return form

    def train(self, name: str, recipe: "Recipe", init: str | None, device: "torch.device") -> str:
        """A step that trains the small model on OUT/data, from the run `init` on, in OUT/runs; the run's path."""
        from emo_core.checkpoint import VERSION
        from emo_core.model.config import tiny
        from emo_core.training.plan import plan
        from emo_core.training.run import carry_out
        from emo_data.dataset import sample

        run = f"runs/{name.replace(' ', '')}"
        self.step(
            name,
            {
                "recipe": recipe.model_dump(mode="json"),
                "model": tiny().model_dump(mode="json"),
                "version": VERSION,
                "sample": sample.VERSION,
            },
            [run],
            lambda report: carry_out(
                plan(
                    recipe,
                    str(self.out / "data"),
                    self.out / run,
                    None if init is None else self.out / init / "model",
                    cache=str(self.out / "latents"),
                ),
                device,
                on_step=report,
            ),
        )
        return run

    def cost(self) -> dict[str, Any]:
        """seconds of each step and of all, peak_mib."""
        seconds = {name: self.steps[name]["seconds"] for name in self.names}
        return {
            "seconds": seconds,
            "seconds_in_all": round(sum(seconds.values()), 1),
            "peak_mib": max(self.steps[name]["peak_mib"] for name in self.names),
        }

    def _record(self, name: str, entry: dict[str, Any]) -> None:
        self.steps[name] = entry
        write_json(self.out / RECORD, self.steps)


def rehearsed(recipe: "Recipe", seed: int, stage_steps: tuple[int, int, int] | None) -> "Recipe":
    """The recipe with this seed and, where steps are given for each stage, its stage's."""
    recipe = recipe.model_copy(update={"seed": seed})
    return recipe if stage_steps is None else recipe.model_copy(update={"steps": stage_steps[recipe.stage - 1]})


def write_json(path: Path, content: dict[str, Any] | list[dict[str, Any]]) -> None:
    """The whole file or none."""
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

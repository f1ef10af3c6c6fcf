"""What a RUN folder holds: run.json, metrics.jsonl, latents/, checkpoints/, previews/, and at the end model/."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from emo_core.checkpoint import Checkpoint, load, save
from emo_core.model.config import ModelConfig
from emo_core.model.emo import EMO
from emo_core.training.recipes import Recipe
from emo_data.errors import UserError
from emo_data.whole import whole_file

OPTIMIZER = "optimizer.safetensors"


class RunCard(BaseModel):
    """run.json: all that decides the result. A folder is only continued by a run that would write the same card."""

    model_config = ConfigDict(extra="forbid")

    recipe: Recipe
    config: ModelConfig
    data: str
    """Where the dataset was; what it holds is told by its fingerprint."""
    data_fingerprint: str
    init: str | None
    """Fingerprint of the model that was continued."""
    weights: dict[str, str]
    """Fingerprints of the public weights that were taken, by part."""


class RunFolder:
    """One training run on disk. Everything is written aside and renamed: what has its final name is complete."""

    def __init__(self, folder: Path, card: RunCard) -> None:
        self.folder = folder
        self.card = card
        self.metrics = folder / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """Where the finished model is."""
        return self.folder / "model"

    def claim(self) -> None:
        """Make the folder, or make sure that it holds an earlier part of this very run."""
        path = self.folder / "run.json"
        if path.exists():
            found, wanted = json.loads(path.read_text()), self.card.model_dump(mode="json")
            if {**found, "data": ""} != {**wanted, "data": ""}:  # the same clips may have been moved
                raise UserError(
                    f"{self.folder}: holds another run (see its run.json); choose another --out or remove it"
                )
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UserError(f"{self.folder}: holds something other than a run; choose another --out")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as unfinished:
                unfinished.write_text(self.card.model_dump_json(indent=2))
        for name in ("checkpoints", "previews"):  # after the card: a folder without it is not taken for a run
            (self.folder / name).mkdir(exist_ok=True)

    def finished(self) -> bool:
        """Whether this run has its model."""
        return self.model.exists()

    def optimizer_file(self, step: int) -> Path:
        """The optimiser's state after a step."""
        return self._at(step) / OPTIMIZER

    def newest(self) -> int:
        """The step of the newest checkpoint, or 0."""
        names = [path.name for path in (self.folder / "checkpoints").iterdir()]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def model_at(self, step: int) -> Path:
        """The model folder of a checkpoint."""
        return self._at(step) / "model"

    def resume(self, model: EMO) -> int:
        """Put the newest checkpoint into the model and return its step, or 0. Metrics of later steps are forgotten."""
        step = self.newest()
        if step:
            model.load_state_dict(load(self.model_at(step), stage=self.card.recipe.stage).model.state_dict())
        lines = self.metrics.read_text().splitlines(keepends=True)[:step] if self.metrics.exists() else []
        with whole_file(self.metrics) as unfinished:
            unfinished.write_text("".join(lines))
        return step

    def record(self, numbers: dict[str, float]) -> None:
        """Add a line to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(numbers) + "\n")

    def save(self, checkpoint: Checkpoint, step: int, write_optimizer: Callable[[Path], None]) -> None:
        """Write the checkpoint of a step and remove older ones."""
        unfinished = self.folder / "checkpoints" / f"{step}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        save(checkpoint, unfinished / "model")
        write_optimizer(unfinished / OPTIMIZER)
        unfinished.rename(self._at(step))
        for path in (self.folder / "checkpoints").iterdir():
            if path != self._at(step):
                shutil.rmtree(path)

    def finish(self, checkpoint: Checkpoint) -> None:
        """Write the model; the checkpoints have done their work."""
        save(checkpoint, self.model)
        for path in (self.folder / "checkpoints").iterdir():
            shutil.rmtree(path)

    def _at(self, step: int) -> Path:
        return self.folder / "checkpoints" / str(step)

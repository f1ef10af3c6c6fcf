"""What a RUN holds, on a disk or in a store: run.json, metrics.jsonl, checkpoints/, previews/, at the end model/.

A checkpoint is what training has changed since its first step: trained weights, their running mean, the optimiser's
state. Where in the data it is follows from its step. It counts from the moment when its marker, which is written last,
is there; what has no marker is removed.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from emo_core.checkpoint import CARD, Checkpoint, save
from emo_core.model.config import ModelConfig
from emo_core.training.recipes import Recipe
from emo_data.errors import UserError
from emo_data.objects import Folder

KEPT = 2
"""Checkpoints: the newest, and one to go back to by hand."""
_MARKER = "complete.json"
FREE = {"micro_batch", "compiled", "gradient_checkpointing"} | {
    f"{what}_every" for what in ("checkpoint", "preview", "validate")
}
"""Numbers of a recipe that may be others when a run goes on: how it is computed, and when it is looked at."""
_LEASE = {"work"}
"""What lies in a folder whose run has just begun."""

Writers = Mapping[str, Callable[[Path], None]]
"""File name -> what writes it."""


class RunCard(BaseModel):
    """run.json: all that decides the result. A folder is only continued by a run that would write the same card."""

    model_config = ConfigDict(extra="forbid")

    model_version: int
    """`emo_core.checkpoint.VERSION`: what the networks compute."""
    sample_version: int
    """`emo_data.dataset.sample.VERSION`: what is learnt from a clip."""
    recipe: Recipe
    config: ModelConfig
    data: str
    """Where the dataset was; what it holds is told by its fingerprint."""
    data_fingerprint: str
    init: str | None
    """Fingerprint of the model that was continued."""
    weights: dict[str, str]
    """Fingerprints of the public weights that were taken, by part."""
    cached_latents: bool
    """Encoded clip by clip beforehand, or sample by sample: the same but for the last bits."""


class RunFolder:
    """One training run. Everything is written aside and renamed, or is one upload: what has its name is complete."""

    def __init__(self, url: str, card: RunCard) -> None:
        self.url, self.card = str(url), card
        self.folder = Folder(self.url)

    @property
    def model(self) -> str:
        """Where the finished model is."""
        return f"{self.url.rstrip('/')}/model"

    def check(self) -> None:
        """UserError where the folder holds something other than an earlier part of this very run."""
        try:
            there = self.folder.names("")
        except OSError as error:
            raise UserError(f"--out {self.url}: cannot be reached: {error}") from error
        if "run.json" in there:
            other = _difference(self._earlier(), self.card)
            if other:
                raise UserError(f"{self.url}: holds another run ({other}); choose another --out or remove it")
        elif not set(there) <= _LEASE or (self.folder.local and Path(self.url).is_file()):
            raise UserError(f"{self.url}: holds something other than a run; choose another --out")

    def claim(self) -> None:
        """Begin, or go on: write the card where there is none, and clear away what was left unfinished."""
        self.check()
        with self.writing("run.json"):
            if not self.folder.exists("run.json"):
                self.folder.write("run.json", self.card.model_dump_json(indent=2).encode())
        whole = {str(step) for step in self.checkpoints()}
        for name in self.folder.names("checkpoints"):
            if name.rpartition("/")[2] not in whole:
                self.folder.remove(name)
        self._sweep()

    def finished(self) -> bool:
        """Whether this run has its model."""
        return self.folder.exists(f"model/{CARD}")

    def checkpoints(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        names = [name.rpartition("/")[2] for name in self.folder.names("checkpoints")]
        return sorted(int(name) for name in names if name.isdigit() and self._is_whole(int(name)))

    def newest(self) -> int:
        """The step of the newest checkpoint, or 0."""
        return max(self.checkpoints(), default=0)

    def read(self, step: int, name: str, use: Callable[[Path], None]) -> None:
        """Let `use` read a file of a checkpoint."""
        if self.folder.local:
            use(Path(self.url) / _at(step, name))
            return
        with tempfile.TemporaryDirectory() as scratch:
            self.folder.copy(_at(step, name), Path(scratch) / name)
            use(Path(scratch) / name)

    def save(self, step: int, writers: Writers) -> None:
        """Write the checkpoint of a step, then remove all but the newest ones. One that is there already is kept."""
        if step in self.checkpoints():
            return
        sizes = {}
        with self.writing(f"the checkpoint of step {step}"), self._scratch("checkpoints") as scratch:
            for name, write in writers.items():
                write(scratch / name)
                sizes[name] = (scratch / name).stat().st_size
                self.folder.put(_at(step, name), scratch / name)
            self.folder.write(_at(step, _MARKER), json.dumps({"step": step, "sizes": sizes}).encode())
        for old in self.checkpoints()[:-KEPT]:
            self._forget(old)

    def finish(self, checkpoint: Checkpoint) -> None:
        """Write the model; the checkpoints have done their work."""
        with self.writing("the model"), self._scratch("") as scratch:
            save(checkpoint, scratch / "model")
            if self.folder.local:
                (scratch / "model").replace(self.model)
            else:
                files = [path for path in (scratch / "model").rglob("*") if path.is_file()]
                for path in sorted(files, key=lambda path: path.name == CARD):  # it makes the folder a model
                    self.folder.put(f"model/{path.relative_to(scratch / 'model')}", path)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a finished run does not need any more."""
        for step in self.checkpoints():
            self._forget(step)
        self.folder.remove("checkpoints")
        self.folder.remove("vae")
        self._sweep()

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """A full disk or a store that is away is said, with what is safe."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            try:
                step = self.newest()
                safe = f"the checkpoint of step {step} is whole" if step else "there is no checkpoint yet"
            except OSError:  # the same store
                safe = "what is whole is found again when it answers"
            raise UserError(f"{self.url}: {what} cannot be written: {error}; {safe}") from error

    @contextmanager
    def _scratch(self, below: str) -> Iterator[Path]:
        """A folder to write in, on the run's own disk where it has one."""
        parent = None
        if self.folder.local:
            parent = Path(self.url) / below
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".unfinished-") as scratch:
            yield Path(scratch)

    def _sweep(self) -> None:
        for folder in ("", "checkpoints", "previews"):
            self.folder.sweep_unfinished(folder)

    def _forget(self, step: int) -> None:
        self.folder.delete([_at(step, _MARKER)])
        self.folder.remove(f"checkpoints/{step}")

    def _is_whole(self, step: int) -> bool:
        try:
            sizes = json.loads(self.folder.read(_at(step, _MARKER)))["sizes"]
            return all(self.folder.info(_at(step, name))["size"] == size for name, size in sizes.items())
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def _earlier(self) -> RunCard:
        try:
            return RunCard.model_validate_json(self.folder.read("run.json"))
        except (ValueError, ValidationError) as error:
            raise UserError(
                f"{self.url}: its run.json is of another version, or damaged; choose another --out"
            ) from error


def _at(step: int, name: str) -> str:
    return f"checkpoints/{step}/{name}"


def _difference(earlier: RunCard, card: RunCard) -> str:
    """The first thing that decides the result and is not the same; where the dataset lies does not."""
    for name, now in card:
        was = getattr(earlier, name)
        if isinstance(now, BaseModel):
            for field, value in now:
                if field not in FREE and getattr(was, field) != value:
                    return f"its {name}.{field} is {getattr(was, field)}, not {value}"
        elif was != now and name != "data":
            return f"its {name} is {was}, not {now}"
    return ""

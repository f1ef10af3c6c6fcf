"""A job that trains one stage."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from emo_core.training.crew import Crew, check_crew, divisors
from emo_core.training.loop import Notice, StoppedError
from emo_core.training.plan import plan
from emo_core.training.plot import plot_losses
from emo_core.training.recipes import stage_recipe
from emo_core.training.run import carry_out
from emo_data.objects import Folder
from flows.asked import asked_to_stop
from flows.forms.train import TrainForm
from flows.forms.where import Where
from flows.told import Told
from flows.work import ray_address
from flows.work.pictures import sheet, shrunk

_SECONDS = 30.0
"""Between two charts, and two looks for previews."""
_FREE = ("steps", "micro_batch", "keep", "checkpoint_every")


def work(given: dict[str, Any], where: Where, told: Told) -> dict[str, Any]:
    """See `flows.work.do`."""
    form = TrainForm.model_validate(given)
    recipe = stage_recipe(form.stage, form.preset)
    changes = {name: value for name in _FREE if (value := getattr(form, name))}
    changes |= {"seed": form.seed, "train_spatial": form.train_spatial}
    recipe = type(recipe).model_validate(recipe.model_dump() | changes)
    device = _device(form, where)
    crew = _crew(form, where, device, recipe.batch)
    check_crew(crew, recipe.batch)
    weights = None if form.weights is None else Path(form.weights)
    planned = plan(recipe, form.data, form.out, form.init, weights, form.cache_latents)
    title = f"stage {form.stage}"

    def show(every: float) -> None:
        told.picture("loss", lambda path: _draw(title, form.out, path), every)

    try:
        with told.phase(title) as report, asked_to_stop() as notice, _previews(form.out, told) as look:

            def on_step(done: int, total: int, note: str) -> None:
                report(done, total, note)
                show(_SECONDS)
                look()

            carry_out(planned, device, crew, on_step, lambda: Notice.STOP if notice() else Notice.NONE)
    except StoppedError as error:
        print(error, flush=True)
        raise KeyboardInterrupt from error
    show(0)
    return {"model": planned.run.model, "run": form.out, "steps": recipe.steps}


def _device(form: TrainForm, where: Where) -> torch.device:
    found = None if form.device == "cpu" or where.cluster else torch.accelerator.current_accelerator(True)
    return found or torch.device("cpu")


def _crew(form: TrainForm, where: Where, device: torch.device, batch: int) -> Crew:
    """On a cluster always Ray's workers: the machine that this process is on has other things to do."""
    gpus = 0 if device.type == "cpu" else torch.accelerator.device_count()
    most = max((count for count in divisors(batch) if count <= gpus), default=0)
    workers = form.workers if form.workers is not None else 1 if where.cluster else most if most > 1 else 0
    return Crew(
        workers=(workers, workers),
        address=ray_address(where),
        accelerator=form.accelerator,
        gpu=form.device != "cpu" if where.cluster else gpus > 0,
    )


def _draw(title: str, run: str, path: Path) -> None:
    if Folder(run).exists("metrics.jsonl"):
        plot_losses({title: run}, path)


@contextmanager
def _previews(run: str, told: Told) -> Iterator[Callable[[], None]]:
    """What the model can do by now, as soon as there is more of it to see; looked for after steps and at the end."""
    folder, shown, looked = Folder(run), set(Folder(run).names("previews")), time.monotonic()

    def look(every: float = _SECONDS) -> None:
        nonlocal looked
        if time.monotonic() - looked < every:
            return
        looked = time.monotonic()
        new = [name for name in folder.names("previews") if name not in shown]
        shown.update(new)
        if new:
            told.picture("preview", lambda path: _sheet(folder, new[-1], path))

    yield look
    look(0)


def _sheet(folder: Folder, name: str, path: Path) -> None:
    """A preview as one picture: some frames of it, where it is a video."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / Path(name).name
        folder.copy(name, copy)
        (shrunk if copy.suffix == ".png" else sheet)(copy, path)

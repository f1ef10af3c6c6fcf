"""Carries jobs out: the models, warm, and one job's folder at a time."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from emo_core.inference.generate import Loaded, NoRoom, Request, generate, load_pipeline
from emo_core.inference.preprocess import Choice
from emo_core.inference.together import Together
from emo_core.inference.unfinished import BegunOtherwise
from emo_core.serving.inspector import PORTRAIT, PREMIERE, SIDECAR, SOUND, VIDEO, Refused, for_a_client
from emo_core.serving.journal import new_id
from emo_core.serving.wish import Wish
from emo_data.errors import UserError
from emo_data.lease import Taken

_PATIENCE = 0.5
"""Seconds between two looks whether somebody else, who was thought dead, has let go of a job."""


class Stopped(Exception):
    """Nobody wants the video any more."""


class Maker:
    """Has its models in memory. Everything about a job is in the job's folder, nothing here."""

    def __init__(self, models: dict[str, str], device: torch.device, at_a_time: int = 1) -> None:
        """models: folders by id. at_a_time: jobs, each on a thread of its own; their clips share denoising steps.
        Raises UserError where a model does not load, or does not listen."""
        self._device = device
        self._loaded: dict[str, Loaded] = {name: load_pipeline(folder, device) for name, folder in models.items()}
        self._together = {name: Together(loaded.pipeline, at_a_time) for name, loaded in self._loaded.items()}

    def check_health(self) -> None:
        """Raises what the device raises."""
        found = torch.ones(8, device=self._device).sum().item()
        if found != 8:
            raise RuntimeError(f"{self._device} computes 8 ones to {found}")

    def make(self, folder: Path, wish: Wish, tell: Callable[[float], None], stop: threading.Event) -> None:
        """Make the video in a job's folder, from the last clip on that an earlier attempt finished.

        wish: with the model's id. tell: which share is done. stop: ends it within a denoising step. Raises Stopped,
        and Refused where the inputs cannot become a video.
        """
        request = Request(
            portrait=folder / PORTRAIT,
            audio=folder / SOUND,
            out=folder / VIDEO,
            speed=wish.speed,
            region=wish.region,
            choice=Choice(face=wish.face),
            sampling=wish.sampling,
            resume=True,
            watch=folder / PREMIERE,
        )

        def on_progress(done: int, total: int) -> None:
            if stop.is_set():
                raise Stopped
            tell(done / total)

        together = self._together[wish.model]
        # Where it is there an earlier attempt came to its end, and nobody heard of it.
        while not (folder / SIDECAR).exists():
            try:
                with together.joined():
                    generate(self._loaded[wish.model], request, on_progress, advance=together.advance)
            except BegunOtherwise:  # before the service got other libraries, or the model was trained on
                aside = (folder / f"{VIDEO}.unfinished").rename(folder / f"{new_id()}.old")
                shutil.rmtree(aside)  # a death in the middle of this leaves nothing that looks like a beginning
            except Taken:
                if stop.wait(_PATIENCE):
                    raise Stopped from None
            except NoRoom:
                raise
            except UserError as error:
                raise Refused(422, for_a_client(str(error), folder)) from error

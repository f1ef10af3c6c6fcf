"""Clips of several videos in the same denoising steps: on an accelerator one alone leaves most of it idle."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emo_core.inference.pipeline import EMOPipeline, OnStep, Talk

_PATIENCE = 0.5
"""Seconds that a clip waits for company, which is at most busy with its last one's pictures."""


@dataclass(eq=False)
class _Waiting:
    talk: Talk
    tell: OnStep
    since: float = field(default_factory=time.monotonic)
    found: Future[Tensor] = field(default_factory=Future)


class Together:
    """One pipeline for videos that are made on a thread each. Whoever finds the others there has it compute for all."""

    def __init__(self, pipeline: EMOPipeline, most: int) -> None:
        """most: videos in one step."""
        self._pipeline, self._most = pipeline, most
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._members, self._busy = 0, False
        self._computes = ThreadPoolExecutor(1, thread_name_prefix="together")

    @contextmanager
    def joined(self) -> Iterator[None]:
        """While the block runs the others wait for this thread's clips, a little."""
        with self._changed:
            self._members += 1
        try:
            yield
        finally:
            with self._changed:
                self._members -= 1
                self._changed.notify_all()

    def advance(self, talk: Talk, tell: OnStep) -> Tensor:
        """As `EMOPipeline.advance` for one talk: what `tell` raises ends this one, and no other."""
        mine = _Waiting(talk, tell)
        with self._changed:
            self._waiting.append(mine)
            self._changed.notify_all()
            while not mine.found.done() and not self._may_begin(mine):
                self._changed.wait(_PATIENCE / 4)
            crew = [] if mine.found.done() else self._crew(mine)
        if len(crew) > 1:
            self._computes.submit(self._compute, crew)  # who is cancelled leaves the others to it
        elif crew:
            self._compute(crew)
        return mine.found.result()

    def _may_begin(self, mine: _Waiting) -> bool:
        if self._busy or mine not in self._waiting:
            return False
        full = len(self._waiting) >= min(self._members, self._most)
        return full or time.monotonic() - mine.since > _PATIENCE

    def _crew(self, mine: _Waiting) -> list[_Waiting]:
        """This one and those that go with it, longest waiting first. The device is theirs."""
        fit = [each for each in self._waiting if each is not mine and each.talk.sampling.goes_with(mine.talk.sampling)]
        crew = [mine, *fit][: self._most]
        self._waiting = [each for each in self._waiting if each not in crew]
        self._busy = True
        return crew

    def _compute(self, crew: list[_Waiting]) -> None:
        first = crew[0].talk.done * crew[0].talk.sampling.steps

        def tell(pipeline: EMOPipeline, step: int, timestep: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
            latents = given["latents"]
            for row, each in enumerate(crew):
                if not each.found.done():
                    at = each.talk.done * each.talk.sampling.steps + step - first
                    try:
                        each.tell(pipeline, at, timestep, {"latents": latents[row : row + 1]})
                    except Exception as error:  # noqa: BLE001 (it is raised where it belongs, on the talk's own thread)
                        self._settle(each, error)
            if all(each.found.done() for each in crew):
                raise _NobodyLeft
            return given

        try:
            for each, latents in zip(crew, self._pipeline.advance([one.talk for one in crew], tell), strict=True):
                if not each.found.done():
                    self._settle(each, latents)
        except Exception as error:  # noqa: BLE001 (so is this, on each one's)
            for each in crew:
                if not each.found.done():
                    self._settle(each, error)
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _settle(self, one: _Waiting, found: Tensor | Exception) -> None:
        with self._changed:
            if isinstance(found, torch.Tensor):
                one.found.set_result(found)
            else:
                one.found.set_exception(found)
            self._changed.notify_all()


class _NobodyLeft(Exception):
    """Nobody waits for these clips any more."""

"""Many videos side by side: actors that look, in a window that bounds what waits."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from socket import gethostname
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from emo_core.evaluation.extractors import Extractors, Setup, make
from emo_core.evaluation.run import Hands, HandsOf
from emo_core.evaluation.watch import Job, Seen, Unseen, look
from emo_data.errors import UserError
from emo_data.on_ray import connected

_AHEAD = 4
"""Files that wait for each worker: enough that none is idle, few enough that their features fit into memory."""


def ray_hands(workers: int, address: str = "local") -> HandsOf:
    """`workers` actors, to which videos and weights have the same paths as here. Answers come in the order of the jobs.

    address: see `emo_data.on_ray.connected`. UserError where a worker's weights are not those that are here.
    """

    @contextmanager
    def hands(setup: Setup) -> Iterator[Hands]:
        told = make(replace(setup, device="cpu")).described()
        with connected(address, workers):
            shared = 0 if setup.device == "cpu" else 1 / (workers + 1)  # one part for whoever looks alone
            actor = ray.remote(num_gpus=shared, max_restarts=-1)(_Watcher)

            def start(cpus: int) -> Any:
                return actor.options(num_cpus=cpus).remote(setup, told)

            yield lambda jobs: _in_order([start(1) for _ in range(workers)], jobs, lambda: start(0))

    return hands


class _Watcher:
    def __init__(self, setup: Setup, told: dict[str, dict[str, Any]]) -> None:
        torch.set_num_threads(1)
        self._setup, self._told = setup, told

    @cached_property
    def _extractors(self) -> Extractors:
        """Made at the first look: what is wrong then is an answer, where a constructor's error would be a death."""
        made = make(self._setup)
        if made.described() != self._told:
            raise UserError(
                f"--weights {self._setup.weights}: a worker on {gethostname()} does not have the networks that are here"
            )
        return made

    def look(self, job: Job) -> Seen | Unseen:
        return look(job, self._extractors)


def _in_order(watchers: list[Any], jobs: Iterable[Job], spare: Callable[[], Any]) -> Iterator[Seen | Unseen]:
    waiting: deque[tuple[Job, Any]] = deque()
    for number, job in enumerate(jobs):
        waiting.append((job, watchers[number % len(watchers)].look.remote(job)))
        if len(waiting) >= _AHEAD * len(watchers):
            yield _answer(*waiting.popleft(), spare)
    while waiting:
        yield _answer(*waiting.popleft(), spare)


def _answer(job: Job, waited_for: Any, spare: Callable[[], Any]) -> Seen | Unseen:
    """A file that kills its worker takes those along that wait there: each is looked at again, by a worker alone."""
    try:
        return _result(waited_for)
    except RayActorError:
        alone = spare()
        try:
            return _result(alone.look.remote(job))
        except RayActorError:
            return Unseen(f"{job.path}: whoever looks at it dies")


def _result(waited_for: Any) -> Seen | Unseen:
    try:
        answer: Seen | Unseen = ray.get(waited_for)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
    return answer

"""Many videos side by side: actors that look, in a window that bounds what waits."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from emo_core.evaluation.extractors import Setup, make
from emo_core.evaluation.run import Hands, HandsOf
from emo_core.evaluation.watch import Job, Seen, Unseen, look
from emo_data.errors import UserError
from emo_data.on_ray import connected

_AHEAD = 4
"""Files that wait for each worker: enough that none is idle, few enough that their features fit into memory."""


def ray_hands(workers: int, address: str = "local") -> HandsOf:
    """`workers` actors. address: see `emo_data.on_ray.connected`. Answers come in the order of the jobs."""

    @contextmanager
    def hands(setup: Setup) -> Iterator[Hands]:
        with connected(address, workers):
            # A file may kill a worker: it is started again and tries once more, then the file is what is wrong.
            shared = 0 if setup.device == "cpu" else 1 / workers
            actor = ray.remote(num_cpus=1, num_gpus=shared, max_restarts=-1, max_task_retries=1)(_Watcher)
            yield lambda jobs: _in_order([actor.remote(setup) for _ in range(workers)], jobs)

    return hands


class _Watcher:
    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(1)
        self._extractors = make(setup)

    def look(self, job: Job) -> Seen | Unseen:
        return look(job, self._extractors)


def _in_order(watchers: list[Any], jobs: Iterable[Job]) -> Iterator[Seen | Unseen]:
    waiting: deque[tuple[Job, Any]] = deque()
    for number, job in enumerate(jobs):
        waiting.append((job, watchers[number % len(watchers)].look.remote(job)))
        if len(waiting) >= _AHEAD * len(watchers):
            yield _answer(*waiting.popleft())
    while waiting:
        yield _answer(*waiting.popleft())


def _answer(job: Job, waited_for: Any) -> Seen | Unseen:
    try:
        answer: Seen | Unseen = ray.get(waited_for)
    except RayActorError:
        return Unseen(f"{job.path}: whoever looks at it dies")
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        raise
    return answer

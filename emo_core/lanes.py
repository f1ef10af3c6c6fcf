"""The same network on different tensors, several at a time."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from emo_data.cores import cores

Lanes = Callable[[Callable[[int], Any], Iterable[int]], Iterator[Any]]
"""(work, items) -> what work finds for each of them, in their order."""


def side_by_side(device: torch.device) -> int:
    """How many fill the device: on a CPU as many as it has cores beside each operation's own threads."""
    if device.type != "cpu":
        return 1
    return max(1, cores() // torch.get_num_threads())


@contextmanager
def lanes(count: int) -> Iterator[Lanes]:
    """So many at a time, each on a thread of its own; a count of 1 runs on this thread. What is thread-local, such as
    `torch.no_grad`, is for the work to set."""
    if count == 1:
        yield map
        return
    with ThreadPoolExecutor(count, thread_name_prefix="lane") as pool:
        yield pool.map

"""The processes that train one model together: alone, or as many as torch.distributed has brought together.

They share a batch by its lanes and hold the same weights after every step. What is said here happens in all of them at
the same point of the program, or it waits for ever.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes what the run keeps."""
        return self.rank == 0

    def lanes(self, batch: int) -> range:
        """Which samples of a batch are this process's: shares that differ by one at most."""
        return range(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)

    def total(self, *numbers: float, device: torch.device) -> list[float]:
        """Each number summed over all processes."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64, device=device)
        distributed.all_reduce(sums)
        return [float(number) for number in sums]

    def of_all(self, value: Value) -> list[Value]:
        """What every process gives, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def of_first(self, value: Value) -> Value:
        """What the first process gives; the others wait for it."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def together(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes while they are computed."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, gradient_as_bucket_view=True, broadcast_buffers=False)


def without_averaging(module: nn.Module) -> AbstractContextManager[None]:
    """For all micro-batches but the last: their gradients are only added up."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

"""Samples ahead of time: read by other processes, in the order in which they are needed."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from emo_data.dataset.index import ClipIndex
from emo_data.dataset.order import Order, Read
from emo_data.dataset.sample import Samples, Wants, read_samples
from emo_data.errors import UserError

AHEAD = 4
"""Readings that each process does ahead."""


def load(index: ClipIndex, wants: Wants, order: Order, lanes: range, steps: range, processes: int) -> Iterator[Samples]:
    """The readings of some lanes for some steps, one after the other. processes: 0 reads when asked, in this one."""
    readings, reads = _Readings(index, wants), order.reads(lanes, steps)
    for samples in _in_processes(readings, reads, processes) if processes else map(readings.__getitem__, reads):
        if isinstance(samples, UserError):
            raise samples
        yield samples


class _Readings(Dataset[Samples | UserError]):
    def __init__(self, index: ClipIndex, wants: Wants) -> None:
        self.index, self.wants = index, wants

    def __getitem__(self, read: Read) -> Samples | UserError:
        try:
            samples = read_samples(self.index, self.wants, read)
        except UserError as error:  # a value: what a process raises reaches the parent as the text of a traceback
            return error
        except OSError as error:
            place = self.index.place(read.clip)
            return UserError(f"dataset {self.index.url}: row {place.row} of {place.path} cannot be read: {error}")
        # Tensors, because those go from process to process without being copied.
        return {
            key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in samples.items()
        }


def _in_processes(readings: _Readings, reads: Iterator[Read], processes: int) -> Iterable[Samples | UserError]:
    # Spawned: a fork of a process that has threads, as torch's and Ray's have, may stand still for ever.
    return DataLoader(
        readings,
        batch_size=None,
        sampler=reads,
        num_workers=processes,
        prefetch_factor=AHEAD,
        multiprocessing_context="spawn",
        collate_fn=_as_it_is,
    )


def _as_it_is(samples: Any) -> Any:
    return samples

"""Which clip every sample of every step comes from: a pure function of step and place in the batch.

So nothing has to be remembered to go on after a stop, and it makes no difference how many workers share a batch. A
batch has as many lanes as samples. A lane reads one clip after the other and draws several windows from each, because
reading costs more than drawing; lanes change their clip at different steps. All lanes together read every clip of an
epoch before the next epoch begins, in an order that (seed, epoch) decides.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from emo_data.dataset.window import choices

STRETCH = 50
"""Windows. A long clip is read once for every so many windows that it has, so that no frame is seen more often than
another because its clip is short."""


@dataclass(frozen=True)
class Read:
    """One reading of a clip by a lane, and for which steps it draws windows from it."""

    lane: int
    clip: int
    steps: range


@dataclass
class Order:
    """The order of a run. owners: int (reads of an epoch,), the clip of each."""

    owners: np.ndarray
    lanes: int
    windows: int
    seed: tuple[int, ...]
    _shuffled: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def over(
        cls, lengths: np.ndarray, frames: int, before: int, *, lanes: int, windows: int, seed: tuple[int, ...]
    ) -> "Order":
        """An order over clips of given lengths. Clips that have no window are never read.

        windows: how many are drawn from a clip that was read. Raises ValueError where no clip has a window.
        """
        count = choices(lengths, frames, before)
        if not count.any():
            raise ValueError(f"no clip has {frames + before} frames")
        often = np.where(count > 0, np.maximum(1, np.rint(count / STRETCH)), 0).astype(np.int64)
        return cls(np.repeat(np.arange(len(lengths), dtype=np.int32), often), lanes, windows, seed)

    def reads(self, lanes: range, steps: range) -> Iterator[Read]:
        """All readings by some of the lanes for some steps, in the order in which they are needed."""
        for step in steps:
            for lane in lanes:
                number, drawn = divmod(step + lane % self.windows, self.windows)
                if step == steps.start or drawn == 0:
                    yield Read(
                        lane, self._clip(lane, number), range(step, min(step + self.windows - drawn, steps.stop))
                    )

    def _clip(self, lane: int, number: int) -> int:
        epoch, place = divmod(number * self.lanes + lane, len(self.owners))
        if epoch not in self._shuffled:
            for old in [known for known in self._shuffled if known < epoch - 1]:
                del self._shuffled[old]
            self._shuffled[epoch] = np.random.default_rng([*self.seed, epoch, 0, 4]).permutation(self.owners)
        return int(self._shuffled[epoch][place])

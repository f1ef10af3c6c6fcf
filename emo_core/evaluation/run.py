"""Pairs in, report out: which files are looked at in which order, and by whom."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch

from emo_core.evaluation.block import FRAMES
from emo_core.evaluation.extractors import FACELESS, Setup, make
from emo_core.evaluation.pairs import Pair
from emo_core.evaluation.report import Report
from emo_core.evaluation.tally import Tally
from emo_core.evaluation.watch import LEAST_FACES, Job, Seen, Unseen, look
from emo_data.schema import FPS

Hands = Callable[[Iterable[Job]], Iterator[Seen | Unseen]]
"""Looks at files and answers in their order."""
HandsOf = Callable[[Setup], AbstractContextManager[Hands]]


@contextmanager
def alone(setup: Setup) -> Iterator[Hands]:
    """In this process."""
    extractors = make(setup)
    yield lambda jobs: (look(job, extractors) for job in jobs)


def evaluate(
    pairs: Sequence[Pair], setup: Setup, hands: HandsOf, on_progress: Callable[[int, int, str], None]
) -> Report:
    """Score all pairs (EMO 4.2). The report does not depend on how many hands there are. UserError for bad weights."""
    tally = Tally(setup.metrics)
    described = make(setup).described()  # what is wrong with the weights is said before the work
    good = sorted((pair for pair in pairs if not pair.problems), key=lambda pair: (pair.truth or "", pair.name))
    for pair in pairs:
        if pair.problems:
            tally.refuse(pair)
    with hands(setup) as work:
        outcomes = work(_jobs(good, setup))
        done = 0
        for _, group in groupby(good, key=lambda pair: pair.truth):
            truth: Seen | Unseen | None = None
            for pair in group:
                truth = next(outcomes) if truth is None else truth
                portrait = next(outcomes) if _needs_portrait(pair, setup) else None
                tally.add(pair, next(outcomes), truth, portrait)
                done += 1
                on_progress(done, len(good), pair.name)
    return tally.report(described, _settings(setup))


def _jobs(pairs: Sequence[Pair], setup: Setup) -> Iterator[Job]:
    """Every truth once, then for each of its pairs the portrait and the generated video."""
    for truth, group in groupby(pairs, key=lambda pair: pair.truth):
        told = Job(str(truth))
        for number, pair in enumerate(group):
            if number == 0:
                yield replace(told, sound=pair.audio)
            if _needs_portrait(pair, setup):
                yield Job(str(pair.portrait), portrait=True)
            yield Job(str(pair.generated), sound=pair.audio or pair.truth)


def _needs_portrait(pair: Pair, setup: Setup) -> bool:
    return pair.portrait is not None and "fsim" in setup.metrics


def _settings(setup: Setup) -> dict[str, Any]:
    return {
        "metrics": list(setup.metrics),
        "fps": FPS,
        "sampling": "every moment of the frame rate, by time stamp",
        "crop": "none",
        "fvd_frames": FRAMES,
        "fvd_stride": FRAMES,
        "least_face_share": None if set(setup.metrics) <= FACELESS else LEAST_FACES,
        "device": setup.device,
        "torch": torch.__version__,
    }

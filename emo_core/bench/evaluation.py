"""What an evaluation costs: the whole of it against decoding and feature extraction alone, in the same run.

The bare work is the libraries' own calls with nothing around them: one decode, one mesh per frame, the detector at
every fifth frame, the sound, and each extractor on pictures and landmarks that are there. One process.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from emo_core.evaluation.block import Block, Extractor
from emo_core.evaluation.extractors import METRICS, Extractors, Setup, make
from emo_core.evaluation.pairs import Pair, find_pairs
from emo_core.evaluation.run import alone, evaluate
from emo_core.evaluation.watch import blocks_of
from emo_core.evaluation.write import write_report
from emo_data.errors import UserError
from emo_data.features.bare import seconds_of, seconds_of_faces, view_of
from emo_data.schema import FPS
from emo_data.sound import sound_between
from emo_data.synthetic import write_sample
from emo_data.video import decoders, probe, read_pictures

_TURNS = 4
"""Of bare work and of scoring."""
_DISTINCT = 8
"""Clips that are made; the others are copies of them."""

Report = Callable[[int, int, str], None]


class EvaluationFigures(BaseModel):
    """All figures of `emo bench evaluate`."""

    model_config = ConfigDict(extra="forbid")

    clips: int
    clip_seconds: float
    size: int
    frames: int = Field(description="of generated and truth together")
    bare_seconds: dict[str, float] = Field(description="decoding, sound, faces, and each extractor, over all videos")
    line_seconds: float = Field(description="from pairs to the written report, the sum of four turns")
    line_over_bare: float
    seconds_per_clip: float = Field(description="of the line: both videos of a pair")


@dataclass(frozen=True)
class _Subject:
    """A video whose faces are known."""

    path: Path
    blocks: list[Block]
    view: tuple[slice, slice]
    sound: np.ndarray


def bench_evaluation(
    clips: int, clip_seconds: float, size: int, weights: str | None, report: Report
) -> EvaluationFigures:
    """Score synthetic clips, by turns with the bare work on them. weights: see `emo evaluate`."""
    setup = Setup(METRICS, weights)
    extractors = make(setup)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = _write_videos(folder, clips, clip_seconds, size)
        subjects = [_subject(path, extractors) for path in videos]
        _bare(subjects[0], extractors)  # what starts up does not count
        _scored(find_pairs(folder / "generated", folder / "truth")[:1], setup, folder / "warm.json")
        total, line = dict[str, float](), 0.0
        pairs = find_pairs(folder / "generated", folder / "truth")
        for part in range(_TURNS):  # by turns: how fast a machine is may change within minutes
            chosen = pairs[part::_TURNS]
            report(2 * part, 2 * _TURNS, "bare")
            for number in range(2 * len(chosen)):
                for what, seconds in _bare(subjects[number % len(subjects)], extractors).items():
                    total[what] = total.get(what, 0.0) + seconds
            report(2 * part + 1, 2 * _TURNS, "scoring")
            line += seconds_of(partial(_scored, chosen, setup, None if part < _TURNS - 1 else folder / "report.json"))
        report(2 * _TURNS, 2 * _TURNS, "")
    return EvaluationFigures(
        clips=clips,
        clip_seconds=clip_seconds,
        size=size,
        frames=2 * clips * round(clip_seconds * FPS),
        bare_seconds=total,
        line_seconds=line,
        line_over_bare=line / sum(total.values()),
        seconds_per_clip=line / clips,
    )


def _scored(pairs: list[Pair], setup: Setup, out: Path | None) -> None:
    found = evaluate(pairs, setup, alone, lambda *_: None)
    if out is not None:
        write_report(found, out, "bench")
    if found.troubled:
        raise UserError(f"{found.troubled[0].name}: {found.troubled[0].problems[0]}")


def _write_videos(folder: Path, clips: int, seconds: float, size: int) -> list[Path]:
    """Both folders; the distinct videos among what they hold. Each video of a pair is a file of its own."""
    write_sample(folder / "sample", clips=min(clips, _DISTINCT), seconds=seconds, seed=0, size=size)
    made = sorted((folder / "sample" / "clips").glob("*.mp4"))
    for side in ("generated", "truth"):
        (folder / side).mkdir()
        for number in range(clips):
            shutil.copy(made[number % len(made)], folder / side / f"{number:04d}.mp4")
    return made


def _subject(path: Path, extractors: Extractors) -> _Subject:
    info = probe(path)
    blocks = list(blocks_of(info, info.at_rate(FPS), decoders(info)[0], extractors.tracks_faces))
    face = blocks[0].landmarks[0, :, :2]
    return _Subject(path, blocks, view_of(np.concatenate([face.min(axis=0), face.max(axis=0)])), _sound(path))


def _sound(path: Path) -> np.ndarray:
    info = probe(path)
    return sound_between(path, float(info.times[0]), len(info.at_rate(FPS)) / FPS)


def _bare(subject: _Subject, extractors: Extractors) -> dict[str, float]:
    """Seconds of each kind of work on one video."""
    info = probe(subject.path)
    grid = np.arange(len(info.pts))
    pictures = np.concatenate([block.pictures[block.before :] for block in subject.blocks])
    times = {
        "decoding": seconds_of(lambda: [None for _ in read_pictures(info, grid, decoders(info)[0])]),
        "sound": seconds_of(lambda: _sound(subject.path)),
        **seconds_of_faces(pictures, subject.view),
    }
    for metric, extractor in extractors.of_pictures.items():
        times[metric] = seconds_of(partial(_extracted, extractor, subject.blocks))
    sync = extractors.sync
    if sync is not None:
        times["sync"] = seconds_of(
            lambda: sync.judge(np.concatenate([sync.features(block) for block in subject.blocks]), subject.sound)
        )
    return times


def _extracted(extractor: Extractor, blocks: list[Block]) -> None:
    for block in blocks:
        extractor.features(block)

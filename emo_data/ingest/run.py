"""Ingestion from the driver's side: find the units, survey their sources, have the missing chunks done, commit.

Everything that readers see is written here, under a lease, and only when all of a unit is there. Whatever dies on the
way, the next call goes on: surveys, finished chunks and attempts are kept in DATASET/work while they are needed.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel

from emo_data.features.audio import AudioEncoder
from emo_data.ingest.accept import Verdict
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.contain import Limits
from emo_data.ingest.ledger import Ledger
from emo_data.ingest.plan import Chunk, Survey, Unit, chunks_of, unit_key
from emo_data.ingest.sources import find_units, on_one_side
from emo_data.ingest.survey import Report, survey_sources
from emo_data.ingest.sync import Judge
from emo_data.ingest.watch import rejection
from emo_data.ingest.worker import Receipt, Setup, Worker
from emo_data.lease import Lease, leased
from emo_data.schema import CLIP_SCHEMA, REJECTION_SCHEMA, table_of
from emo_data.store import Commit, Dataset, Piece


class Phase(Protocol):
    """Shows one phase of the work while its block runs."""

    def __call__(self, name: str, /) -> AbstractContextManager[Report]: ...


class Crew(Protocol):
    """Whoever does the work; answers come in any order."""

    def survey(self, uris: list[str]) -> Iterable[tuple[str, Survey]]: ...

    def ingest(self, chunks: list[Chunk]) -> Iterable[Receipt]: ...


CrewOf = Callable[[Setup], AbstractContextManager[Crew]]
"""Gathers a crew for a run, and lets it go."""


class IngestSummary(BaseModel):
    """What one call did. Rejections are counted by reason; copies: name -> the source that has the same content."""

    dataset: str
    sources: int
    already_done: int
    changed: int
    """Sources that changed while they were read, or vanished; call again."""
    copies: dict[str, str]
    chunks: int
    clips: int
    hours: float
    """Of accepted clips."""
    rejections: dict[str, int]


class _Alone:
    """A crew of one, in this process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def survey(self, uris: list[str]) -> Iterator[tuple[str, Survey]]:
        return ((uri, self._worker.survey(uri)) for uri in uris)

    def ingest(self, chunks: list[Chunk]) -> Iterator[Receipt]:
        return map(self._worker.ingest, chunks)


@contextmanager
def alone(setup: Setup) -> Iterator[Crew]:
    """No cluster: this process does everything, one after the other."""
    with Worker(setup) as worker:
        yield _Alone(worker)


@contextmanager
def _silence(_: str) -> Iterator[Report]:
    yield lambda done, total, note: None


@dataclass
class _Task:
    """A unit that is to be done."""

    unit: Unit
    survey: Survey
    key: str
    chunks: list[Chunk]
    refused: Verdict | None
    pieces: dict[int, Piece] = field(default_factory=dict)


@dataclass
class _Count:
    """For the progress line and the summary."""

    clips: int = 0
    seconds: float = 0.0
    chunks: int = 0
    changed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    start: float = field(default_factory=time.monotonic)

    def add(self, piece: Piece) -> None:
        self.clips += piece.clips.rows if piece.clips else 0
        self.seconds += piece.seconds
        self.reasons.update(piece.reasons)

    def note(self, chunks: int) -> str:
        rate = self.clips / max(time.monotonic() - self.start, 1e-9)
        told = f"chunk {self.chunks} of {chunks}, {self.clips} clips ({self.seconds / 3600:.2f} h), {rate:.2g} clips/s"
        why = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common(4))
        return told + (f", rejected: {why}" if why else "")


def ingest(
    sources: list[str],
    out: str,
    config: IngestConfig,
    *,
    crew: CrewOf = alone,
    phase: Phase = _silence,
    limits: Limits | None = None,
    judge: Callable[[], Judge] | None = None,
    retry_faults: bool = False,
    on_piece: Callable[[Piece], None] = lambda piece: None,
) -> IngestSummary:
    """Add every clip in the sources to the dataset `out`; safe to call again, it does only what is missing.

    sources: video files, folders (searched through), globs, `s3://` prefixes and manifests, see sources.py.
    judge: makes what judges whether mouth and sound go together, see sync.py. retry_faults: do sources again that
    brought our programs down. on_piece: is shown what is committed. UserError for bad usage, and where another
    ingestion is writing this dataset.
    """
    units = find_units(sources, config)
    encoder = AudioEncoder.load(config.audio_model, config.audio_layers)
    form = config.model_dump(mode="json") | {"audio_layers": encoder.layers, "audio_extractor": encoder.fingerprint}
    form |= {"sync_judge": judge().name if judge else None}
    records = Dataset.open(out).commits() if Dataset.check(out, form) else []
    units = on_one_side(units, {record.identity: record.split for record in records}, config)
    setup = Setup(out, uuid.uuid4().hex, config, encoder.fingerprint, limits or Limits(), judge)
    with crew(setup) as hands, leased(Dataset.create(out, form).folder, "ingestion") as lease:
        dataset = Dataset.open(out)
        with phase("survey") as report:
            stamps, surveys = survey_sources(units, dataset, hands.survey, retry_faults, report)
        tasks, copies, already = _missing(units, stamps, surveys, dataset, encoder.fingerprint, config, retry_faults)
        with phase("ingest") as report:
            count = _carry_out(
                tasks, dataset, Ledger(dataset.folder, setup.run), hands, lease, config, report, on_piece
            )
        lease.check()
        dataset.sweep()
    return IngestSummary(
        dataset=out,
        sources=len(units),
        already_done=already,
        changed=count.changed,
        copies=copies,
        chunks=count.chunks,
        clips=count.clips,
        hours=count.seconds / 3600,
        rejections=dict(sorted(count.reasons.items())),
    )


def _missing(
    units: list[Unit],
    stamps: dict[str, str],
    surveys: dict[str, Survey],
    dataset: Dataset,
    extractor: str,
    config: IngestConfig,
    retry_faults: bool,
) -> tuple[list[_Task], dict[str, str], int]:
    """What is to be done, which sources are copies of which, and how many units are done already."""
    form = config.fingerprint(extractor)
    records = {commit.key: commit for commit in dataset.commits()}
    first: dict[str, Unit] = {}
    copies: dict[str, str] = {}
    tasks: list[_Task] = []
    already = 0
    for unit in units:  # sorted by name: of several copies the first one counts
        survey = surveys[unit.uri]
        key = unit_key(unit, survey, form)
        unreadable = unit_key(unit, Survey(""), form)
        if survey.sha256 and unreadable in records:
            dataset.forget([unreadable])  # it can be read now
        record = records.get(key) if survey.sha256 else None
        if record and retry_faults and any(piece.faults for piece in record.pieces):
            record = None
        winner = first.setdefault(key, unit).name
        if record and record.source < winner:
            winner = record.source
        if winner != unit.name:
            copies[unit.name] = winner
        elif record and (record.source, record.identity, record.split) == (unit.name, unit.identity, unit.split):
            already += 1
        else:
            chunks = survey.refused or chunks_of(unit, stamps[unit.uri], survey, key, config)
            refused = chunks if isinstance(chunks, Verdict) else None
            tasks.append(_Task(unit, survey, key, [] if isinstance(chunks, Verdict) else chunks, refused))
    return tasks, copies, already


def _carry_out(
    tasks: list[_Task],
    dataset: Dataset,
    ledger: Ledger,
    hands: Crew,
    lease: Lease,
    config: IngestConfig,
    report: Report,
    on_piece: Callable[[Piece], None],
) -> _Count:
    """Have the chunks done and commit each unit as soon as all of it is there."""
    count, finished = _Count(), ledger.finished()
    by_key = {task.key: task for task in tasks}
    chunks = [chunk for task in tasks for chunk in task.chunks]
    total = round(sum(_seconds(chunk, config) for chunk in chunks))
    done = 0.0

    def settle(task: _Task) -> None:
        """Commit a unit that is complete."""
        if len(task.pieces) < len(task.chunks):
            return
        lease.check()
        pieces = [task.pieces[number] for number in sorted(task.pieces)] or [_refused(task, dataset)]
        for piece in pieces:
            count.add(piece)
        unit = task.unit
        dataset.commit(
            Commit(task.key, unit.name, task.survey.sha256, unit.identity, unit.split, unit.start, unit.end, pieces)
        )
        for piece in pieces:
            on_piece(piece)
        ledger.forget(task.chunks)

    for task in tasks:
        known = {chunk.piece: finished.get((chunk.label, chunk.made_from())) for chunk in task.chunks}
        task.pieces.update({number: piece for number, piece in known.items() if piece})
        done += sum(_seconds(chunk, config) for chunk in task.chunks if chunk.piece in task.pieces)
        settle(task)
        report(round(done), total, count.note(len(chunks)))
    left = [chunk for chunk in chunks if chunk.piece not in by_key[chunk.key].pieces]
    for receipt in hands.ingest(left) if left else ():
        task = by_key[receipt.chunk.key]
        count.chunks += 1
        done += _seconds(receipt.chunk, config)
        if receipt.piece is None:
            count.changed += 1
        else:
            task.pieces[receipt.chunk.piece] = receipt.piece
            settle(task)
        report(round(done), total, count.note(len(left)))
    ledger.clear()
    return count


def _seconds(chunk: Chunk, config: IngestConfig) -> float:
    return (chunk.stop - chunk.start) / config.fps


def _refused(task: _Task, dataset: Dataset) -> Piece:
    """The one rejection of a unit that nobody need look at."""
    assert task.refused is not None
    survey, unit = task.survey, task.unit
    row = rejection(unit.name, survey.sha256, task.refused, unit.start or survey.begin, survey.seconds)
    return dataset.write_piece(task.key, 0, CLIP_SCHEMA.empty_table(), table_of([row], REJECTION_SCHEMA))

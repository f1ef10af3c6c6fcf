"""What one worker does, in this process or in many: survey a source, look at a chunk, hear it, write its rows.

Never raises for bad data: that becomes a rejection. What it does raise (a store that cannot be reached, a bug) ends the
run, and the next run goes on from there.
"""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import pyarrow as pa
import torch

from emo_data import objects
from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder
from emo_data.ingest import child
from emo_data.ingest.accept import Verdict
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.contain import Contained, Fault, Limits
from emo_data.ingest.hear import hear
from emo_data.ingest.ledger import Ledger
from emo_data.ingest.plan import Chunk, Survey
from emo_data.ingest.sources import is_remote
from emo_data.ingest.sync import Judge, judged
from emo_data.ingest.watch import rejection
from emo_data.schema import CLIP_SCHEMA, REJECTION_SCHEMA, Reason, table_of
from emo_data.store import Dataset, Piece


@dataclass(frozen=True)
class Setup:
    """What every worker of a run must know. extractor: fingerprint of the audio encoder; judge: see sync.py."""

    url: str
    run: str
    config: IngestConfig
    extractor: str
    limits: Limits
    judge: Callable[[], Judge] | None = None


@dataclass(frozen=True)
class Looked:
    """What a chunk's pictures and sounds gave.

    tables: clips and rejections; None where the chunk is done already, or its source has changed.
    """

    chunk: Chunk
    tables: tuple[pa.Table, pa.Table] | None


@dataclass(frozen=True)
class Receipt:
    """What became of a chunk. piece: None where nothing was written, because its source has changed meanwhile."""

    chunk: Chunk
    piece: Piece | None

    def to_json(self) -> str:
        """A few hundred bytes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reverse."""
        content = json.loads(text)
        return cls(Chunk(**content["chunk"]), content["piece"] and Piece.from_json(content["piece"]))


class Worker:
    """Use with `with`, or `close` it."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._contained = Contained(setup.limits)
        self._fetched: tuple[str, tempfile.TemporaryDirectory[str]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child, remove what was fetched."""
        self._contained.end()
        self._forget_fetched()

    def survey(self, uri: str) -> Survey:
        """What a source is."""
        sha256 = ""
        try:
            with self._local(uri) as path:
                sha256 = content_hash(path)
                request = child.survey_request(path, sha256, self._setup.config)
                return Survey.from_json(self._ask(request, 0.0)[1].decode())
        except Fault as fault:
            return Survey(sha256, refused=Verdict(fault.reason, fault.detail))
        except OSError as error:
            if is_remote(uri) and not isinstance(error, FileNotFoundError | PermissionError):
                raise  # the store, not the source
            return Survey("", refused=Verdict(Reason.UNREADABLE, error.strerror or str(error)))

    def ingest(self, chunk: Chunk) -> Receipt:
        """A chunk from its pictures to its written rows."""
        return self.hear_and_write(self.look(chunk))

    def look(self, chunk: Chunk) -> Looked:
        """Rows without audio features."""
        if self._ledger.piece(chunk):  # whoever died over the next chunk is given this one again, too
            return Looked(chunk, None)
        if not self._ledger.begin(chunk):
            verdict = Verdict(Reason.CRASH_LOOP, "every worker that took it on died; `--retry-faults` tries it again")
            return Looked(chunk, self._refused(chunk, verdict))
        seconds = (chunk.stop - chunk.start) / self._setup.config.fps
        try:
            with self._local(chunk.uri) as path:
                answer = self._ask(child.watch_request(path, chunk, self._setup.config), seconds)[1]
            found: tuple[pa.Table, pa.Table] = child.tables(answer)
        except Fault as fault:
            found = self._refused(chunk, Verdict(fault.reason, fault.detail))
        except OSError as error:
            if is_remote(chunk.uri) and not isinstance(error, FileNotFoundError):
                raise  # the store, not the source
            return Looked(chunk, None)
        return Looked(chunk, found if self._unchanged(chunk) else None)

    def hear_and_write(self, looked: Looked) -> Receipt:
        """Add audio features, write the rows."""
        if looked.tables is None:
            return Receipt(looked.chunk, self._ledger.piece(looked.chunk))
        clips, rejections = looked.tables
        chunk = looked.chunk
        if self._judge is not None:
            clips, rejections = judged(clips, rejections, self._judge, self._setup.config.thresholds)
        if clips.num_rows:
            clips = hear(clips, self._encoder)
        piece = self._dataset.write_piece(chunk.key, chunk.piece, clips, rejections)
        self._ledger.finish(chunk, piece)
        return Receipt(chunk, piece)

    @cached_property
    def _dataset(self) -> Dataset:
        return Dataset.open(self._setup.url)

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self._dataset.folder, self._setup.run)

    @cached_property
    def _encoder(self) -> AudioEncoder:
        config = self._setup.config
        encoder = AudioEncoder.load(config.audio_model, config.audio_layers)
        if encoder.fingerprint != self._setup.extractor:
            raise UserError(f"audio model {config.audio_model}: is another one here than where the run was started")
        encoder.model.to(torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu"))
        return encoder

    @cached_property
    def _judge(self) -> Judge | None:
        return self._setup.judge() if self._setup.judge else None

    def _ask(self, request: bytes, seconds: float) -> tuple[bytes, bytes]:
        """A second try for a child that died: what killed it may have been meant for another."""
        try:
            return self._contained.ask(request, seconds)
        except Fault as fault:
            if fault.reason is not Reason.CRASHED:
                raise
        return self._contained.ask(request, seconds)

    def _refused(self, chunk: Chunk, verdict: Verdict) -> tuple[pa.Table, pa.Table]:
        fps = self._setup.config.fps
        row = rejection(chunk.name, chunk.sha256, verdict, chunk.start / fps, (chunk.stop - chunk.start) / fps)
        return CLIP_SCHEMA.empty_table(), table_of([row], REJECTION_SCHEMA)

    def _unchanged(self, chunk: Chunk) -> bool:
        try:
            return objects.stamp(chunk.uri) == chunk.stamp
        except FileNotFoundError:
            return False

    @contextmanager
    def _local(self, uri: str) -> Iterator[Path]:
        """The file itself, or a copy of what lies in a store; the last copy is kept for the next chunk of the same."""
        if not is_remote(uri):
            path = Path(uri)
            if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would wait for its writer
                raise OSError(0, "it is not a file")
            yield path
            return
        if self._fetched is None or self._fetched[0] != uri:
            self._forget_fetched()
            folder = tempfile.TemporaryDirectory(prefix="emo-")
            objects.fetch(uri, Path(folder.name) / "source")
            self._fetched = (uri, folder)
        yield Path(self._fetched[1].name) / "source"

    def _forget_fetched(self) -> None:
        if self._fetched is not None:
            self._fetched[1].cleanup()
            self._fetched = None


def content_hash(path: Path) -> str:
    """sha256 of the file. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

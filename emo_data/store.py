"""What a dataset is made of, and the one rule that makes it trustworthy: readers know only what a commit record names.

    DATASET/  dataset.json · clips/*.parquet · summaries/*.parquet · rejections/*.parquet · commits/*.json
              work/ (while it is made)

A unit is a source, or the part of one that a manifest names. Its rows lie in one or more objects, each named by unit,
piece and content; its commit record is written last and names them with their sha256.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emo_data.errors import UserError
from emo_data.objects import Folder
from emo_data.schema import (
    CLIP_SCHEMA,
    FAULTS,
    REJECTION_SCHEMA,
    SCHEMA_VERSION,
    SUMMARY_SCHEMA,
    table_of,
    value_of,
)

_KINDS = {"clips": CLIP_SCHEMA, "summaries": SUMMARY_SCHEMA, "rejections": REJECTION_SCHEMA}
"""What Parquet objects there are. Every row of clips has one of summaries, in the same order."""
_FOOTERS = 256
_AT_ONCE = 16
"""Objects that are opened side by side: a store answers each of them after tens of milliseconds."""


@dataclass(frozen=True)
class StoredObject:
    """One Parquet file: path below the dataset, checksum, rows."""

    path: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Piece:
    """What came of one piece of a unit; None where it has no such rows. seconds: of the clips; faults: rejections that
    are faults of ours, see `schema.FAULTS`; reasons: rejections by reason."""

    clips: StoredObject | None
    summaries: StoredObject | None
    rejections: StoredObject | None
    seconds: float
    reasons: dict[str, int]

    @property
    def faults(self) -> int:
        """How many."""
        return sum(count for reason, count in self.reasons.items() if reason in FAULTS)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """The reverse of dataclasses.asdict."""
        objects = {name: content[name] and StoredObject(**content[name]) for name in _KINDS}
        return cls(**(content | objects))


@dataclass(frozen=True)
class Commit:
    """One unit, done: what it was made from and what came of it.

    source: its name as given when it was ingested; start, end: the part of it, in its own seconds; None for all of it.
    """

    key: str
    source: str
    source_sha256: str
    identity: str
    split: str
    start: float | None
    end: float | None
    pieces: list[Piece]


class Place(NamedTuple):
    """Where one clip lies: each clip is a row group of its own, so reading it reads nothing else."""

    path: str
    row: int


class Places(Sequence[Place]):
    """Where each of many clips lies. A dataset has millions: what is kept is one entry for each object."""

    def __init__(self, objects: Sequence[StoredObject]) -> None:
        self._paths = [stored.path for stored in objects]
        self._sha256s = [stored.sha256 for stored in objects]
        self._ends = np.cumsum([stored.rows for stored in objects], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = int(np.searchsorted(self._ends, number, side="right"))  # objects without rows are stepped over
        return Place(self._paths[which], int(number - (self._ends[which - 1] if which else 0)))

    def sha256s(self, numbers: np.ndarray) -> list[str]:
        """The checksums of the objects that these clips lie in, sorted."""
        return sorted(self._sha256s[which] for which in np.unique(np.searchsorted(self._ends, numbers, side="right")))


_SAYS = {"audio_model": "audio_extractor"}
"""What may be said in several ways -> what it comes to: a folder has a path from here and one from the root."""


class Dataset:
    """A dataset at a path or URL. `open` one to read it, `create` one to add to it."""

    def __init__(self, url: str, config: dict[str, Any]) -> None:
        self.url = url
        self.config = config
        self.folder = Folder(url)
        self._footers: dict[str, pq.FileMetaData] = {}

    @classmethod
    def open(cls, url: str) -> Self:
        """UserError where there is none, or one of another version."""
        folder = Folder(url)
        with _reachable(url):
            there = folder.exists("dataset.json")
            if not there:
                what = "is not a dataset (it has no dataset.json)" if folder.exists() else "does not exist"
                raise UserError(f"dataset {url} {what}; `emo ingest SOURCE --out {url}` makes one")
            data = folder.read("dataset.json")
        try:
            head = json.loads(data)
            version, config = head["schema_version"], head["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"dataset {url}: its dataset.json is damaged; restore it or ingest anew") from error
        if version != SCHEMA_VERSION:
            raise UserError(
                f"dataset {url} has schema version {version}, this program reads version {SCHEMA_VERSION}; "
                "ingest again, or use the release that made it"
            )
        return cls(url, config)

    @classmethod
    def create(cls, url: str, config: dict[str, Any]) -> Self:
        """Make a dataset, or open one to go on. UserError as `check` raises it."""
        if not cls.check(url, config):
            with _reachable(url):
                head = {"schema_version": SCHEMA_VERSION, "config": config}
                Folder(url).create("dataset.json", _as_json(head))
            cls.check(url, config)  # somebody else may have been quicker
        return cls.open(url)

    @classmethod
    def check(cls, url: str, config: dict[str, Any]) -> bool:
        """Whether there is such a dataset already; UserError where `create` could not make or go on with it."""
        folder = Folder(url)
        with _reachable(url):
            if not folder.exists("dataset.json"):
                if folder.exists() and folder.names(""):
                    raise UserError(f"{url} is not empty and not a dataset; choose another --out")
                return False
        made = cls.open(url)
        for name in sorted(config.keys() | made.config.keys()):
            was, now = made.config.get(name), config.get(name)
            comes_to = made.config.get(_SAYS.get(name, ""))
            if was != now and (comes_to is None or comes_to != config.get(_SAYS[name])):
                raise UserError(f"dataset {url} was made with {name} {was}, not {now}; choose another --out")
        return True

    def write_piece(self, key: str, piece: int, clips: pa.Table, rejections: pa.Table) -> Piece:
        """Write the rows of one piece of a unit. Nobody sees them before `commit`; to write them again is harmless."""
        reasons = rejections.column("reason").to_pylist()
        frames, fps = clips.column("frames").to_pylist(), clips.column("fps").to_pylist()
        return Piece(
            clips=self._write_rows(f"clips/{key}-{piece:05d}", clips, rows_at_once=1),
            summaries=self._write_rows(f"summaries/{key}-{piece:05d}", clips.select(SUMMARY_SCHEMA.names)),
            rejections=self._write_rows(f"rejections/{key}-{piece:05d}", rejections),
            seconds=sum(count / rate for count, rate in zip(frames, fps, strict=True)),
            reasons={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        )

    def commit(self, commit: Commit) -> None:
        """From now on readers see this unit; what an earlier record of it named is gone for them."""
        self.folder.write(f"commits/{commit.key}.json", _as_json({"schema_version": SCHEMA_VERSION, **asdict(commit)}))

    def forget(self, keys: Iterable[str]) -> None:
        """Take commit records back: readers do not see these units any more."""
        self.folder.delete([f"commits/{key}.json" for key in keys])

    def write_source(
        self,
        key: str,
        source: str,
        source_sha256: str,
        clips: Sequence[dict[str, Any]],
        rejections: Sequence[dict[str, Any]],
        identity: str = "",
        split: str = "",
    ) -> Commit:
        """All rows of a whole source at once, and its commit record."""
        piece = self.write_piece(key, 0, table_of(clips, CLIP_SCHEMA), table_of(rejections, REJECTION_SCHEMA))
        commit = Commit(key, source, source_sha256, identity, split, None, None, [piece])
        self.commit(commit)
        return commit

    def sweep(self) -> int:
        """Remove objects that no commit record names; how many. Only for whoever alone writes this dataset."""
        commits = self.commits()
        named = {stored.path for kind in _KINDS for stored in _objects(commits, kind)}
        lost = [name for kind in _KINDS for name in self.folder.names(kind) if name not in named]
        self.folder.delete(lost)
        for kind in (*_KINDS, "commits", "work"):
            self.folder.sweep_unfinished(kind)
        return len(lost)

    def commits(self) -> list[Commit]:
        """Every unit that is done, by key."""
        with _reachable(self.url):
            names = self._records()
            records = self.folder.read_all(names)
        return [self._commit(name, data) for name, data in zip(names, records, strict=True)]

    def clips(self, columns: Sequence[str]) -> tuple[Places, pa.Table]:
        """Some columns of the summaries of all clips, and where each clip lies."""
        commits = self.commits()
        return Places(_objects(commits, "clips")), self._table(_objects(commits, "summaries"), SUMMARY_SCHEMA, columns)

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of all clips, object by object: for what does not fit into memory at once."""
        for stored in _objects(self.commits(), "clips"):
            yield self._table([stored], CLIP_SCHEMA, columns)

    def read_clip(self, place: Place, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of one clip; arrays come as numpy, the video as bytes."""
        with self._object(place.path) as stream:
            file = pq.ParquetFile(stream, metadata=self._footers.get(place.path))
            self._remember(place.path, file.metadata)
            group = file.read_row_group(place.row, columns=list(columns), use_threads=False)
        return {name: value_of(group.column(name)[0]) for name in columns}

    def rejections(self, columns: Sequence[str] = tuple(REJECTION_SCHEMA.names)) -> pa.Table:
        """Some columns of every rejection."""
        return self._table(_objects(self.commits(), "rejections"), REJECTION_SCHEMA, columns)

    def verify(self, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Read everything again; one line for each commit record, checksum, schema or row count that is wrong."""
        problems: list[str] = []
        names = self._records()
        for number, name in enumerate(names, start=1):
            try:
                commit = self._commit(name, self.folder.read(name))
            except UserError as error:
                problems.append(str(error))
                continue
            for piece in commit.pieces:
                for kind, schema in _KINDS.items():
                    if stored := getattr(piece, kind):
                        problems.extend(f"{stored.path}: {problem}" for problem in self._problems(stored, schema))
            if on_progress:
                on_progress(number, len(names))
        return problems

    def _remember(self, path: str, footer: pq.FileMetaData) -> None:
        """An object is never another under its name; the footers of the last few that were read are kept."""
        self._footers.pop(path, None)
        self._footers[path] = footer
        for old in list(self._footers)[:-_FOOTERS]:  # threads may be at it side by side
            self._footers.pop(old, None)

    def _problems(self, stored: StoredObject, schema: pa.Schema) -> Iterable[str]:
        try:
            data = self.folder.read(stored.path)
        except FileNotFoundError:
            return ["missing"]
        if hashlib.sha256(data).hexdigest() != stored.sha256:
            return ["checksum differs from the commit record"]
        file = pq.ParquetFile(io.BytesIO(data))
        wrong = [] if file.schema_arrow.equals(schema) else ["its columns are not those of this schema version"]
        return wrong + ([] if file.metadata.num_rows == stored.rows else ["its number of rows is not the recorded one"])

    def _records(self) -> list[str]:
        return [name for name in self.folder.names("commits") if name.endswith(".json")]

    def _commit(self, name: str, data: bytes) -> Commit:
        try:
            record = json.loads(data)
            record.pop("schema_version")
            return Commit(**(record | {"pieces": [Piece.from_json(piece) for piece in record["pieces"]]}))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"dataset {self.url}: commit record {name} is damaged; delete it and ingest again"
            ) from error

    @contextlib.contextmanager
    def _object(self, path: str) -> Iterator[Any]:
        """An object opened for reading; UserError where it is missing, is not what was written or is out of reach."""
        try:
            with self.folder.open(path) as stream:
                yield stream
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise UserError(
                f"dataset {self.url}: {path} is missing or damaged; `emo data verify {self.url}` lists all that is"
            ) from error
        except OSError as error:
            raise UserError(f"dataset {self.url}: {path} cannot be read: {error}") from error

    def _table(self, objects: Sequence[StoredObject], schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
        wanted = pa.schema([schema.field(name) for name in columns])

        def read(stored: StoredObject) -> pa.Table:
            with self._object(stored.path) as stream:
                return pq.read_table(stream, columns=list(columns)).cast(wanted)

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return pa.concat_tables([wanted.empty_table(), *threads.map(read, objects)])

    def _write_rows(self, name: str, table: pa.Table, rows_at_once: int | None = None) -> StoredObject | None:
        if not table.num_rows:
            return None
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, table.schema, compression="zstd", use_dictionary=False) as writer:
            writer.write_table(table, row_group_size=rows_at_once)
        data = buffer.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"{name}-{sha256[:12]}.parquet"
        self.folder.write(path, data)
        return StoredObject(path, sha256, table.num_rows)


def _objects(commits: Iterable[Commit], kind: str) -> list[StoredObject]:
    pieces = [piece for commit in commits for piece in commit.pieces]
    return [stored for stored in (getattr(piece, kind) for piece in pieces) if stored]


@contextlib.contextmanager
def _reachable(url: str) -> Iterator[None]:
    """What keeps a dataset from being reached at all is for the user to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(f"dataset {url}: cannot be reached: {error}") from error


def _as_json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()

"""Where a dataset lies: a local folder or an object store, written so that a reader never sees half of anything.

    DATASET/  dataset.json · clips/KEY.parquet · rejections/KEY.parquet · commits/KEY.json

Objects are written whole (local: temporary file, fsync, rename; object store: one PUT). A source's commit record is
written last and names its objects with their sha256. Readers trust only commit records: what none names is not there.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from emo_data.errors import UserError
from emo_data.schema import CLIP_SCHEMA, REJECTION_SCHEMA, SCHEMA_VERSION


@dataclass(frozen=True)
class StoredObject:
    """One Parquet file: path below the dataset, checksum, rows."""

    path: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Commit:
    """One source, done: what came of it. `source` is its name as given when it was ingested."""

    key: str
    source: str
    source_sha256: str
    clips: StoredObject | None
    rejections: StoredObject | None


class Place(NamedTuple):
    """Where one clip lies: each clip is a row group of its own, so reading it reads nothing else."""

    path: str
    row: int


class Dataset:
    """A dataset at a path or URL. `open` one to read it, `create` one to add to it."""

    def __init__(self, url: str, config: dict[str, Any]) -> None:
        self.url = url
        self.config = config
        self._fs, self._root = _located(url)

    @classmethod
    def open(cls, url: str) -> Self:
        """UserError where there is none, or one of another version."""
        fs, root = _located(url)
        if not fs.exists(f"{root}/dataset.json"):
            what = "is not a dataset (it has no dataset.json)" if fs.exists(root) else "does not exist"
            raise UserError(f"dataset {url} {what}; `emo ingest SOURCE --out {url}` makes one")
        try:
            head = json.loads(fs.cat_file(f"{root}/dataset.json"))
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
        """Make a dataset, or open one to go on; UserError where it was made with other settings."""
        fs, root = _located(url)
        if fs.exists(f"{root}/dataset.json"):
            dataset = cls.open(url)
            for name in sorted(config.keys() | dataset.config.keys()):
                was, now = dataset.config.get(name), config.get(name)
                if was != now:
                    raise UserError(f"dataset {url} was made with {name} {was}, not {now}; choose another --out")
            return dataset
        if fs.exists(root) and fs.ls(root):
            raise UserError(f"{url} is not empty and not a dataset; choose another --out")
        dataset = cls(url, config)
        dataset._write("dataset.json", _as_json({"schema_version": SCHEMA_VERSION, "config": config}))
        return dataset

    def write_source(
        self,
        key: str,
        source: str,
        source_sha256: str,
        clips: Sequence[dict[str, Any]],
        rejections: Sequence[dict[str, Any]],
    ) -> Commit:
        """Write all rows of one source, then its commit record."""
        commit = Commit(
            key=key,
            source=source,
            source_sha256=source_sha256,
            clips=self._write_rows(f"clips/{key}.parquet", clips, CLIP_SCHEMA),
            rejections=self._write_rows(f"rejections/{key}.parquet", rejections, REJECTION_SCHEMA),
        )
        self._write(f"commits/{key}.json", _as_json({"schema_version": SCHEMA_VERSION, **asdict(commit)}))
        return commit

    def commits(self) -> list[Commit]:
        """Every source that is done, by key."""
        return [self._commit(path) for path in self._records()]

    def clips(self, columns: Sequence[str]) -> tuple[list[Place], pa.Table]:
        """Some columns of all clips, and where each row lies."""
        objects = [commit.clips for commit in self.commits() if commit.clips]
        places = [Place(stored.path, row) for stored in objects for row in range(stored.rows)]
        return places, self._table(objects, CLIP_SCHEMA, columns)

    def read_clip(self, place: Place, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of one clip; arrays come as numpy, the video as bytes."""
        with self._object(place.path) as stream:
            group = pq.ParquetFile(stream).read_row_group(place.row, columns=list(columns))
        return {name: _value(group.column(name)[0]) for name in columns}

    def rejections(self) -> pa.Table:
        """Every rejection there is."""
        objects = [commit.rejections for commit in self.commits() if commit.rejections]
        return self._table(objects, REJECTION_SCHEMA, REJECTION_SCHEMA.names)

    def verify(self) -> list[str]:
        """Read everything again; one line for each commit record, checksum, schema or row count that is wrong."""
        problems: list[str] = []
        for path in self._records():
            try:
                commit = self._commit(path)
            except UserError as error:
                problems.append(str(error))
                continue
            for stored, schema in ((commit.clips, CLIP_SCHEMA), (commit.rejections, REJECTION_SCHEMA)):
                if stored:
                    problems.extend(f"{stored.path}: {problem}" for problem in self._problems(stored, schema))
        return problems

    def _problems(self, stored: StoredObject, schema: pa.Schema) -> Iterable[str]:
        try:
            data = self._fs.cat_file(f"{self._root}/{stored.path}")
        except FileNotFoundError:
            return ["missing"]
        if hashlib.sha256(data).hexdigest() != stored.sha256:
            return ["checksum differs from the commit record"]
        file = pq.ParquetFile(io.BytesIO(data))
        wrong = [] if file.schema_arrow.equals(schema) else ["its columns are not those of this schema version"]
        return wrong + ([] if file.metadata.num_rows == stored.rows else ["its number of rows is not the recorded one"])

    def _records(self) -> list[str]:
        """Paths of the commit records. Listed, not globbed: the dataset's own path may hold a `*` or a `[`."""
        folder = f"{self._root}/commits"
        if not self._fs.exists(folder):
            return []
        return sorted(path for path in self._fs.ls(folder, detail=False) if path.endswith(".json"))

    def _commit(self, path: str) -> Commit:
        try:
            record = json.loads(self._fs.cat_file(path))
            record.pop("schema_version")
            objects = {name: record[name] and StoredObject(**record[name]) for name in ("clips", "rejections")}
            return Commit(**(record | objects))
        except (ValueError, KeyError, TypeError) as error:
            name = path.removeprefix(self._root)
            raise UserError(
                f"dataset {self.url}: commit record {name} is damaged; delete it and ingest again"
            ) from error

    @contextlib.contextmanager
    def _object(self, path: str) -> Iterator[Any]:
        """An object opened for reading; UserError where it is missing or is not what was written."""
        try:
            with self._fs.open(f"{self._root}/{path}", "rb") as stream:
                yield stream
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise UserError(
                f"dataset {self.url}: {path} is missing or damaged; `emo data verify {self.url}` lists all that is"
            ) from error

    def _table(self, objects: Sequence[StoredObject], schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
        wanted = pa.schema([schema.field(name) for name in columns])
        tables = [wanted.empty_table()]
        for stored in objects:
            with self._object(stored.path) as stream:
                tables.append(pq.read_table(stream, columns=list(columns)).cast(wanted))
        return pa.concat_tables(tables)

    def _write_rows(self, path: str, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> StoredObject | None:
        if not rows:
            return None
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, schema, compression="zstd", use_dictionary=False) as writer:
            for row in rows:
                columns = [_column(row[field.name], field.type) for field in schema]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        data = buffer.getvalue()
        self._write(path, data)
        return StoredObject(path, hashlib.sha256(data).hexdigest(), len(rows))

    def _write(self, path: str, data: bytes) -> None:
        target = f"{self._root}/{path}"
        if not isinstance(self._fs, LocalFileSystem):
            self._fs.pipe_file(target, data)
            return
        folder, name = os.path.split(target)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{name}.{os.getpid()}")
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        handle = os.open(folder, os.O_RDONLY)  # the rename itself must survive a power cut
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _located(url: str) -> tuple[Any, str]:
    try:
        fs, root = fsspec.core.url_to_fs(str(url))
    except (ValueError, ImportError) as error:
        raise UserError(f"dataset {url}: {error}") from error
    return fs, root.rstrip("/")


def _as_json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()


def _column(value: Any, kind: pa.DataType) -> pa.Array:
    """One row's value; arrays (F,) and (F, n) become lists without passing through Python objects."""
    if not pa.types.is_list(kind):
        return pa.array([value], type=kind)
    inner = kind.value_type
    if pa.types.is_fixed_size_list(inner):
        flat = pa.array(value.reshape(-1), type=inner.value_type)
        values = pa.FixedSizeListArray.from_arrays(flat, inner.list_size)
    else:
        values = pa.array(value, type=inner)
    return pa.ListArray.from_arrays(pa.array([0, len(values)], type=pa.int32()), values)


def _value(scalar: pa.Scalar) -> Any:
    """A nested list becomes an array of its own shape: (F,), (F, 3)…"""
    if not isinstance(scalar, pa.ListScalar):
        return scalar.as_py()
    values, inner = scalar.values, None
    if pa.types.is_fixed_size_list(values.type):
        inner = values.type.list_size
        values = values.flatten()
    array = values.to_numpy(zero_copy_only=False)
    return array.reshape(-1, inner) if inner else array

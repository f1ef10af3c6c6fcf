"""What the user pointed at, as units: files, folders, globs, object stores, manifests. And who is in them.

A manifest is a CSV, JSONL or Parquet file with the columns uri, start, end, identity, split, of which only uri must be
there; a relative uri starts from the manifest's own folder.
"""

import csv
import glob
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from emo_data import objects
from emo_data.errors import UserError
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.plan import Unit
from emo_data.objects import Folder
from emo_data.schema import Split

VIDEO_ENDINGS = frozenset(
    ".3g2 .3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()  # noqa: SIM905
)
"""What a folder is searched for; a file that is named itself may have any ending."""
MANIFEST_ENDINGS = frozenset({".csv", ".jsonl", ".parquet"})
_COLUMNS = ("uri", "start", "end", "identity", "split")


def find_units(sources: list[str], config: IngestConfig) -> list[Unit]:
    """Every unit once, sorted by name, with a split only where a manifest tells it: see `on_one_side`.

    UserError for none, and for a manifest that is wrong.
    """
    told: list[Unit] = []
    for source in sources:
        if _ending(source) in MANIFEST_ENDINGS:
            told.extend(_from_manifest(source, config))
        else:
            told.extend(_unit({"uri": uri}, config) for uri in _found(source))
    whole = {unit.uri: unit for unit in told if unit.start is None and unit.end is None}
    parts = {(unit.uri, unit.start, unit.end): unit for unit in told if unit.start is not None or unit.end is not None}
    return sorted([*whole.values(), *parts.values()], key=lambda unit: (unit.name, unit.start or 0.0, unit.end or 0.0))


def on_one_side(units: list[Unit], sides: dict[str, str], config: IngestConfig) -> list[Unit]:
    """Where a manifest puts a person on one side, all that shows the person goes there; the rest goes by hash.

    sides: identities whose split is known already, and which it is. UserError where a manifest contradicts them or
    itself.
    """
    told = dict(sides)
    for unit in units:
        if unit.split and told.setdefault(unit.identity, unit.split) != unit.split:
            raise UserError(f"identity {unit.identity}: is in both splits; a person belongs to one (see {unit.name})")
    return [
        replace(unit, split=told.get(unit.identity) or split_of(unit.identity, config.test_share)) for unit in units
    ]


def printable(path: str) -> str:
    """A file's name as text, whatever bytes it is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def identity_of(source: str, pattern: str | None) -> str:
    """The file's name without its ending, or what the pattern's group finds in it."""
    name = Path(source).stem
    found = re.search(pattern, name) if pattern else None
    return found.group(1) if found else name


def split_of(identity: str, test_share: float) -> str:
    """By hash of the identity, so that none is on both sides, in this dataset or another (EMO 4.1)."""
    place = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    return (Split.TEST if place < test_share else Split.TRAIN).value


def is_remote(uri: str) -> bool:
    """Whether it lies in an object store."""
    return "://" in uri and not uri.startswith("/")


def _found(source: str) -> list[str]:
    if is_remote(source):
        uris = objects.found(source)
        inside = [uri for uri in uris if uri == source or _ending(uri) in VIDEO_ENDINGS]
    elif os.path.isdir(source):
        files = (os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names)
        inside = [file for file in files if _ending(file) in VIDEO_ENDINGS]
    elif os.path.lexists(source):
        inside = [source]
    else:
        inside = [match for match in glob.glob(source, recursive=True) if not os.path.isdir(match)]
    if not inside:
        raise UserError(f"source {printable(source)}: no video found there; give files, folders or globs of videos")
    return inside


def _from_manifest(source: str, config: IngestConfig) -> list[Unit]:
    base, _, name = source.rpartition("/")
    try:
        data = Folder(base or ("/" if source.startswith("/") else ".")).read(name)
    except OSError as error:
        raise UserError(f"manifest {source}: cannot be read: {error}") from error
    try:
        rows = _rows(data, _ending(source))
    except (ValueError, pa.ArrowException, csv.Error) as error:
        raise UserError(f"manifest {source}: {error}") from error
    units = []
    for number, row in enumerate(rows, start=1):
        try:
            units.append(_unit(_checked(row, base), config))
        except ValueError as error:
            raise UserError(f"manifest {source}, row {number}: {error}") from error
    if not units:
        raise UserError(f"manifest {source}: has no rows")
    return units


def _rows(data: bytes, ending: str) -> Iterable[dict[str, Any]]:
    if ending == ".parquet":
        return pq.read_table(io.BytesIO(data)).to_pylist()
    text = data.decode("utf-8-sig")
    if ending == ".csv":
        return list(csv.DictReader(io.StringIO(text)))
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _checked(row: Any, base: str) -> dict[str, Any]:
    """ValueError says what is wrong with a row."""
    if not isinstance(row, dict):
        raise ValueError("is not an object with the columns " + ", ".join(_COLUMNS))
    unknown = sorted(str(column) for column in row if column not in _COLUMNS)
    if unknown:
        raise ValueError(f"column {unknown[0]} is not known; a manifest has {', '.join(_COLUMNS)}")
    found = {column: value for column, value in row.items() if value not in (None, "")}
    if not isinstance(found.get("uri"), str):
        raise ValueError("has no uri")
    for column in ("start", "end"):
        if column in found:
            found[column] = float(found[column])
            if not 0 <= found[column] < float("inf"):
                raise ValueError(f"{column} {found[column]} is not a number of seconds")
    if found.get("end", float("inf")) <= found.get("start", 0.0):
        raise ValueError(f"end {found['end']} is not after start {found.get('start', 0.0)}")
    if "split" in found and found["split"] not in set(Split):
        raise ValueError(f"split {found['split']} is none of {', '.join(Split)}")
    uri = found["uri"]
    return found | {"uri": uri if is_remote(uri) or os.path.isabs(uri) or not base else f"{base}/{uri}"}


def _unit(row: dict[str, Any], config: IngestConfig) -> Unit:
    uri = row["uri"] if is_remote(row["uri"]) else os.path.abspath(row["uri"])  # one spelling, wherever one stands
    name = printable(uri)
    identity = str(row["identity"]) if "identity" in row else identity_of(name, config.identity_pattern)
    return Unit(uri, name, identity, row.get("split", ""), row.get("start"), row.get("end"))


def _ending(source: str) -> str:
    return os.path.splitext(source)[1].lower()

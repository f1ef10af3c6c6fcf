"""Which generated video is compared with which truth: two folders, or manifests, CSV, JSONL or Parquet.

Columns of a manifest: generated, truth, portrait, audio (files, by paths from its own folder), identity, region
(x0,y0,x1,y1 in 0-1) and name; only the videos must be there. Without a manifest, and between two of them,
names pair: the column name, else the name of the file (in folders, its path) without the ending.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from emo_data.errors import UserError

SIDES = ("generated", "truth")
FILES = (*SIDES, "portrait", "audio")
COLUMNS = (*FILES, "name", "identity", "region")
MANIFESTS = (".csv", ".jsonl", ".parquet")
VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})


@dataclass(frozen=True)
class Pair:
    """A clip: what is there of it. problems: why it cannot be compared."""

    name: str
    generated: str | None = None
    truth: str | None = None
    portrait: str | None = None
    audio: str | None = None
    identity: str | None = None
    region: tuple[float, ...] | None = None
    problems: list[str] = field(default_factory=list)


def find_pairs(generated: Path, truth: Path | None) -> list[Pair]:
    """Every name on either side once, sorted. truth: None where the manifest of the generated has the column.

    UserError for what cannot be read, for a manifest that is wrong, and where nothing pairs at all.
    """
    rows = _rows_of("--generated", generated, "generated")
    tells_truth = any("truth" in row for row in rows)
    if (truth is None) != tells_truth:
        raise UserError(
            f"--generated {generated}: already names the truth of its videos; leave --truth out"
            if tells_truth
            else f"--truth: missing; give a folder or a manifest, or a column truth in {generated}"
        )
    both = rows + (_rows_of("--truth", truth, "truth") if truth is not None else [])
    merged: dict[str, dict[str, Any]] = {}
    for row in both:
        known = merged.setdefault(row["name"], {"name": row["name"], "problems": []})
        twice = [side for side in SIDES if side in row and side in known]
        if twice:
            known["problems"].append(f"two {twice[0]} videos have this name: {known[twice[0]]} and {row[twice[0]]}")
        people = [str(side["identity"]) for side in (known, row) if "identity" in side]
        if len(set(people)) > 1 and not twice:
            known["problems"].append(f"wrong pairing? it is of {people[0]}, its truth of {people[1]}")
        known.update({column: value for column, value in row.items() if column not in known})
    pairs = [Pair(**merged[name]) for name in sorted(merged)]
    for pair in pairs:
        for side in SIDES:
            if getattr(pair, side) is None:
                pair.problems.append(f"there is no {side} video for it")
    if all(pair.generated is None or pair.truth is None for pair in pairs):
        raise UserError(
            f"--generated {generated}: no name in it is also in --truth {truth} (e.g. {pairs[0].name}); "
            "name videos alike, or write a manifest with the columns generated and truth"
        )
    return pairs


def _rows_of(option: str, source: Path, side: str) -> list[dict[str, Any]]:
    """Rows with a name, absolute files (a worker may have another folder), and the side's video."""
    source = source.absolute()
    if source.is_dir():
        try:
            videos = sorted(path for path in _inside(source) if path.suffix.lower() in VIDEOS)
        except OSError as error:
            raise UserError(f"{option} {source}: {error}") from error
        if not videos:
            raise UserError(f"{option} {source}: holds no video")
        return [{"name": path.relative_to(source).with_suffix("").as_posix(), side: str(path)} for path in videos]
    if source.suffix.lower() not in MANIFESTS:
        raise UserError(f"{option} {source}: must be a folder of videos, or a manifest: CSV, JSONL or Parquet")
    try:
        rows = _cells(source.read_bytes(), source.suffix.lower())
        if not rows:
            raise ValueError("has no rows")
        return [_checked(row, number, source.parent, side) for number, row in enumerate(rows, start=1)]
    except (OSError, ValueError, pa.ArrowException, csv.Error) as error:
        raise UserError(f"{option} {source}: {error}") from error


def _inside(source: Path) -> Iterator[Path]:
    """All files, also behind links to folders. OSError for what cannot be listed, which is not left out in silence."""

    def fail(error: OSError) -> None:
        raise error

    for folder, below, names in os.walk(source, onerror=fail, followlinks=True):
        here = os.path.realpath(folder)
        for name in below:
            if os.path.commonpath([here, there := os.path.realpath(os.path.join(folder, name))]) == there:
                raise OSError(f"{os.path.join(folder, name)} leads back to a folder that it lies in")
        yield from (Path(folder) / name for name in names)


def _cells(data: bytes, ending: str) -> list[dict[str, Any]]:
    if ending == ".parquet":
        found: Iterable[Any] = pq.read_table(io.BytesIO(data)).to_pylist()
    elif ending == ".jsonl":
        found = [json.loads(line) for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    else:
        found = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    return list(found)


def _checked(row: Any, number: int, folder: Path, side: str) -> dict[str, Any]:
    """ValueError says what is wrong with a row."""
    if not isinstance(row, dict):
        raise ValueError(f"row {number}: is not an object with columns")
    if None in row:
        raise ValueError(f"row {number}: has more cells than there are columns")
    unknown = [str(column) for column in row if column not in COLUMNS]
    if unknown:
        raise ValueError(f"column {unknown[0]} is not known; there are {', '.join(COLUMNS)}")
    cells = {column: value for column, value in row.items() if not _empty(value)}
    if side not in cells:
        raise ValueError(f"row {number}: has no {side}")
    found: dict[str, Any] = {column: str(value) for column, value in cells.items()}
    if "region" in cells:
        found["region"] = _region(cells["region"], number)
    found.setdefault("name", Path(found[side]).with_suffix("").name)
    return found | {column: str(folder / found[column]) for column in FILES if column in found}


def _empty(value: Any) -> bool:
    return value in (None, "") or (isinstance(value, float) and math.isnan(value))  # how pandas leaves a cell empty


def _region(value: Any, number: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 4 or not (0 <= numbers[0] < numbers[2] <= 1 and 0 <= numbers[1] < numbers[3] <= 1):
        raise ValueError(f"row {number}: region {value} is not x0,y0,x1,y1 in 0-1")
    return numbers

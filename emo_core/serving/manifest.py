"""A list of videos to be made: CSV, JSONL or Parquet, of which every row is checked before the first is begun.

Columns: portrait and audio, files by a path from the manifest's own folder; name, of the video, else the row's number;
and the fields of `Wish`. What is empty is left to the service.
"""

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from emo_core.serving.wish import Wish
from emo_data.errors import UserError

_FILES = ("portrait", "audio")
_COLUMNS = (*_FILES, "name", *Wish.model_fields)
_NAME = re.compile(r"[^./\\\x00-\x1f\x7f\ud800-\udfff][^/\\\x00-\x1f\x7f\ud800-\udfff]*")
_NAME_BYTES = 200
"""What file systems take, less what a file that is not finished is called."""
_SHOWN = 5
"""Problems that an error tells."""


@dataclass(frozen=True)
class Row:
    """One video."""

    name: str
    portrait: Path
    audio: Path
    wish: Wish


def read_manifest(path: Path) -> list[Row]:
    """UserError names the first of the rows that are wrong, and says of each all that is."""
    try:
        found = _cells(path.read_bytes(), path.suffix.lower())
    except (OSError, ValueError, pa.ArrowException, csv.Error) as error:
        raise UserError(f"--manifest {path}: {error}") from error
    if not found:
        raise UserError(f"--manifest {path}: has no rows")
    rows, problems, names = [], [], dict[str, int]()
    for number, cells in enumerate(found, start=1):
        name = cells.get("name", f"{number:05d}")
        files = {column: path.parent / cells[column] for column in _FILES if column in cells}
        wrong = [*_wrong_files(files), *_wrong_name(name)]
        # Names that differ in capitals alone are one file on some disks.
        if (first := names.setdefault(name.casefold(), number)) != number:
            wrong.append(f"name {name}: row {first} has it already")
        try:
            wish = Wish.model_validate({column: cells[column] for column in Wish.model_fields if column in cells})
        except ValidationError as error:
            wrong.append(_said(error))
        if wrong:
            problems.append(f"row {number}: {'; '.join(wrong)}")
        else:
            rows.append(Row(name, files["portrait"], files["audio"], wish))
    if problems:
        told = [*problems[:_SHOWN], *(["…"] if len(problems) > _SHOWN else [])]
        raise UserError(f"--manifest {path}: {len(problems)} of {len(found)} rows are wrong: {' | '.join(told)}")
    return rows


def _cells(data: bytes, ending: str) -> list[dict[str, str]]:
    """Of every row those that are not empty, as text. ValueError says what cannot be read."""
    if ending == ".parquet":
        table = pq.read_table(io.BytesIO(data))
        _once(table.column_names)
        return [_texts(row.items(), number) for number, row in enumerate(table.to_pylist(), start=1)]
    if ending not in (".csv", ".jsonl"):
        raise ValueError("must end in .csv, .jsonl or .parquet")
    text = data.decode("utf-8-sig")
    if ending == ".jsonl":
        lines = [line for line in text.split("\n") if line.strip()]
        return [_texts(_object(line, number).items(), number) for number, line in enumerate(lines, start=1)]
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    _once(reader.fieldnames or [])
    return [_texts(row.items(), number) for number, row in enumerate(reader, start=1)]


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"row {number}: is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"row {number}: is not an object with columns")
    return found


def _once(columns: Sequence[str]) -> None:
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise ValueError(f"column {twice[0]} is there twice")


def _texts(cells: Iterable[tuple[str | None, Any]], number: int) -> dict[str, str]:
    """The three formats say one thing in one way: 15, 15.0 and "15" are the same number of steps."""
    found: dict[str, str] = {}
    for column, value in cells:
        if column is None:
            raise ValueError(f"row {number}: has more cells than there are columns")
        if column not in _COLUMNS:
            raise ValueError(f"column {column} is not known; there are {', '.join(_COLUMNS)}")
        if value is None or (isinstance(value, float) and math.isnan(value)):  # which is how pandas leaves a cell empty
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"row {number}: {column} is neither text nor a number")
        text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
        if text:
            found[column] = text
    return found


def _wrong_files(files: dict[str, Path]) -> list[str]:
    return [f"{column}: has no file" for column in _FILES if column not in files] + [
        f"{column}: there is no file {path}" if not path.is_file() else f"{column}: {path} may not be read"
        for column, path in files.items()
        if not (path.is_file() and os.access(path, os.R_OK))
    ]


def _wrong_name(name: str) -> list[str]:
    if _NAME.fullmatch(name) and len(name.encode()) <= _NAME_BYTES:
        return []
    return [f"name {name}: must be a plain file name without an ending, of at most {_NAME_BYTES} bytes"]


def _said(error: ValidationError) -> str:
    said = [
        (".".join(str(part) for part in one["loc"]), one["msg"].removeprefix("Value error, ")) for one in error.errors()
    ]
    return "; ".join(f"{where}: {what}" if where else what for where, what in said)

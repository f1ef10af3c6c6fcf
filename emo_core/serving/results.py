"""What became of a batch's rows, in the folder of their videos.

OUT/NAME.mp4           the video of a row; whole, or not there
OUT/results.jsonl      what became of a row, as soon as it is known: a later run goes on from it
OUT/results.parquet    the same as a table in the manifest's order, when all is over
OUT/work/              whose it is, see `emo_data.lease`
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from emo_core.serving.manifest import Row
from emo_data.errors import UserError
from emo_data.lease import Lease, leased
from emo_data.objects import Folder
from emo_data.whole import whole_file

_LINES, TABLE = "results.jsonl", "results.parquet"
_UNFINISHED = re.compile(r"\.\d+\..+\.(mp4|parquet)")
_COLUMNS = pa.schema(
    [(name, pa.string()) for name in ("name", "portrait", "audio", "state", "error", "job")]
    + [("frames", pa.int64()), ("seconds", pa.float64()), ("video", pa.string())]
)


class Stopped(Exception):
    """A batch cannot go on; what is done is kept. `str` is a sentence for whoever waits for it."""


class Outcome(BaseModel):
    """What became of a row."""

    name: str
    digest: str
    """Of portrait, sound and wish."""
    state: Literal["done", "failed"]
    error: str | None
    job: str | None
    frames: int | None
    seconds: float
    """From the first try to the end."""


class Results:
    """A folder, see above. One process at a time has it."""

    def __init__(self, out: Path, lease: Lease) -> None:
        self._out, self._lease = out, lease
        self._newest: dict[str, Outcome] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._file = (out / _LINES).open("ab+", buffering=0)

    @classmethod
    @contextmanager
    def opened(cls, out: Path) -> Iterator[Self]:
        """Raises UserError for a folder with something else in it, and Taken."""
        try:
            out.mkdir(parents=True, exist_ok=True)
            others = [path.name for path in out.iterdir() if path.name != "work" and not path.name.startswith(".")]
        except OSError as error:
            raise UserError(f"--out {out}: {error.strerror}") from error
        if not os.access(out, os.W_OK):
            raise UserError(f"--out {out}: may not be written")
        if others and _LINES not in others:
            raise UserError(f"--out {out}: holds something else; give a new folder, or one of an earlier batch")
        with leased(Folder(str(out.absolute())), "emo batch") as lease:
            found = cls(out, lease)
            try:
                found._go_on()
                yield found
            finally:
                found._file.close()

    def _go_on(self) -> None:
        """From what was known when an earlier run ended, and however it did."""
        for path in self._out.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink()
        self._file.seek(0)
        told = self._file.readall()
        *lines, torn = told.split(b"\n")
        self._file.truncate(len(told) - len(torn))
        for number, line in enumerate(lines, start=1):
            try:
                self._take(Outcome.model_validate_json(line))
            except ValidationError as error:
                raise UserError(f"{self._out / _LINES}, line {number}: is damaged; delete it, and try again") from error

    def newest(self, name: str) -> Outcome | None:
        """What became of a row last."""
        return self._newest.get(name)

    def failures(self, name: str, digest: str) -> int:
        """How often this very row has failed."""
        return self._failures.get((name, digest), 0)

    def video(self, name: str) -> Path:
        """Where a row's video is."""
        return self._out / f"{name}.mp4"

    def add(self, outcome: Outcome) -> None:
        """It is on the disk when this returns. Raises Stopped, and UserError where another process has taken over."""
        self._lease.check()
        line, before = outcome.model_dump_json().encode() + b"\n", os.fstat(self._file.fileno()).st_size
        with self._writing():
            if outcome.state == "failed":  # what may lie there is the video of what the row was before
                self.video(outcome.name).unlink(missing_ok=True)
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(before)
                raise
        self._take(outcome)

    @contextmanager
    def new_video(self, name: str) -> Iterator[Path]:
        """Where to write it; it is there when the block ends well. Raises as `add`."""
        with self._writing(), whole_file(self.video(name)) as path:
            yield path
            self._lease.check()

    def write_table(self, rows: list[Row]) -> Path:
        """Of rows that are all done or failed. Videos are named as seen from it, so that the folder may be moved."""
        table = [
            self._newest[row.name].model_dump(exclude={"digest"})
            | {"portrait": str(row.portrait.absolute()), "audio": str(row.audio.absolute())}
            | {"video": self.video(row.name).name if self._newest[row.name].state == "done" else None}
            for row in rows
        ]
        with self._writing(), whole_file(self._out / TABLE) as path:
            pq.write_table(pa.Table.from_pylist(table, schema=_COLUMNS), path)
        return self._out / TABLE

    def _take(self, outcome: Outcome) -> None:
        self._newest[outcome.name] = outcome
        if outcome.state == "failed":
            self._failures[outcome.name, outcome.digest] = self.failures(outcome.name, outcome.digest) + 1

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Stopped(f"--out {self._out}: {error.strerror}; what is done is kept, type it again then") from error

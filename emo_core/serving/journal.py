"""Which jobs were accepted and what became of them, in one SQLite file. What it has said is on the disk.

One process has it open, and no other can: the service. Whoever carries jobs out tells the service.
"""

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emo_core.serving.wish import Job, State, Wish
from emo_data.errors import UserError

JOURNAL = "journal.sqlite"
"""Its name in a service's folder."""
_VERSION = 1
_TABLE = """
create table jobs (
    number integer primary key,
    id text not null unique,
    key text unique,
    digest text not null,
    wish text not null,
    state text not null,
    frames_done integer not null,
    frames_total integer not null,
    error text,
    accepted real not null,
    ended real
);
create index by_state on jobs (state);
"""
_COLUMNS = "id, wish, state, frames_done, frames_total, error, accepted, ended"
_OPEN = f"state in ('{State.QUEUED}', '{State.RUNNING}')"


class Full(Exception):
    """As many jobs wait as may."""


class KeyTaken(Exception):
    """The idempotency key stands for another request."""


class Journal:
    """Its methods may be called from any thread."""

    def __init__(self, path: Path, patience: float = 60) -> None:
        """patience: seconds in which another service may let go of it. Raises UserError where it does not, and for a
        file of another version."""
        self._lock = threading.Lock()
        self._base = sqlite3.connect(path, timeout=patience, check_same_thread=False, isolation_level=None)
        self._base.execute("pragma locking_mode = exclusive")  # nor is memory shared, which not every disk can
        try:
            self._base.execute("pragma journal_mode = wal")
            self._base.execute("pragma synchronous = full")
            (version,) = self._base.execute("pragma user_version").fetchone()
        except sqlite3.OperationalError as error:
            self._base.close()
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise UserError(
                f"{path.parent}: another service has its jobs there; end it, or give this one a folder of its own"
            ) from error
        if version not in (0, _VERSION):
            self._base.close()
            raise UserError(f"{path}: a journal of version {version}; this Open EMO reads {_VERSION}")
        if version == 0:
            self._base.executescript(f"begin; {_TABLE} pragma user_version = {_VERSION}; commit;")

    def close(self) -> None:
        """Nothing is lost without it."""
        with self._lock:
            self._base.close()

    def has(self, key: str) -> bool:
        """Whether a key stands for a job."""
        with self._lock:
            return self._base.execute("select 1 from jobs where key = ?", (key,)).fetchone() is not None

    def known(self, key: str, digest: str) -> Job | None:
        """The job that an earlier request with this key began. Raises KeyTaken where that was another request."""
        with self._lock:
            return self._known(key, digest)

    def accept(self, job: str, wish: Wish, frames: int, digest: str, key: str | None, limit: int) -> Job:
        """A new job, or the one that the key stands for already, see `id`. Raises Full, and KeyTaken.

        job: an id that is not taken. limit: of jobs that are not over.
        """
        with self._transaction() as base:
            if key is not None and (earlier := self._known(key, digest)) is not None:
                return earlier
            (waiting,) = base.execute(f"select count(*) from jobs where {_OPEN}").fetchone()
            if waiting >= limit:
                raise Full
            base.execute(
                "insert into jobs (id, key, digest, wish, state, frames_done, frames_total, accepted) "
                "values (?, ?, ?, ?, ?, 0, ?, ?)",
                (job, key, digest, wish.model_dump_json(), State.QUEUED, frames, time.time()),
            )
        found = self.get(job)
        assert found is not None
        return found

    def get(self, job: str) -> Job | None:
        """None where there is no such job, or no longer."""
        with self._lock:
            row = self._base.execute(f"select {_COLUMNS} from jobs where id = ?", (job,)).fetchone()
        return None if row is None else _job(row)

    def open_jobs(self) -> list[Job]:
        """Those that are not over, in the order of their acceptance."""
        with self._lock:
            rows = self._base.execute(f"select {_COLUMNS} from jobs where {_OPEN} order by number").fetchall()
        return [_job(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """Jobs by state."""
        with self._lock:
            found = dict(self._base.execute("select state, count(*) from jobs group by state"))
        return {state: found.get(state, 0) for state in State}

    def advance(self, job: str, frames_done: int) -> bool:
        """It is being carried out, and so far. False where it is over: it need not go on."""
        return self._update(job, "state = ?, frames_done = max(frames_done, ?)", (State.RUNNING, frames_done))

    def wait(self, job: str) -> bool:
        """It waits for somebody who carries it out again."""
        return self._update(job, "state = ?", (State.QUEUED,))

    def end(self, job: str, state: State, error: str | None = None) -> bool:
        """It is over. False where it was already."""
        done = "frames_total" if state == State.DONE else "frames_done"
        return self._update(job, f"state = ?, error = ?, ended = ?, frames_done = {done}", (state, error, time.time()))

    def ends(self) -> dict[str, float | None]:
        """By the id of every job: since when it is over, in seconds since 1970."""
        with self._lock:
            return dict(self._base.execute("select id, ended from jobs"))

    def forget(self, job: str) -> None:
        """As if it had never been."""
        with self._lock:
            self._base.execute("delete from jobs where id = ?", (job,))

    def _update(self, job: str, change: str, values: tuple[Any, ...]) -> bool:
        """Whether the job was there and not over."""
        with self._lock:
            return (
                self._base.execute(f"update jobs set {change} where id = ? and {_OPEN}", (*values, job)).rowcount == 1
            )

    def _known(self, key: str, digest: str) -> Job | None:
        row = self._base.execute(f"select digest, {_COLUMNS} from jobs where key = ?", (key,)).fetchone()
        if row is None:
            return None
        if row[0] != digest:
            raise KeyTaken
        return _job(row[1:])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._base.execute("begin immediate")
            try:
                yield self._base
            except BaseException:
                self._base.execute("rollback")
                raise
            self._base.execute("commit")


def new_id() -> str:
    """Of a job: nobody guesses another's."""
    return uuid.uuid4().hex


def _job(row: tuple[Any, ...]) -> Job:
    job, wish, state, done, total, error, accepted, ended = row
    return Job(
        id=job,
        wish=Wish.model_validate_json(wish),
        state=State(state),
        frames_done=done,
        frames_total=total,
        error=error,
        accepted=accepted,
        ended=ended,
    )

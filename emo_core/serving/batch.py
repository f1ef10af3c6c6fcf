"""A manifest's videos, made by a service: sent, waited for and fetched, so many at a time.

A row's job has the same Idempotency-Key in every run, so a run that was interrupted finds the jobs again that it had
begun. Only where a job has failed the next run gives it another.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import httpx
from pydantic import BaseModel

from emo_core.serving.client import Client, Forgotten, Job, RowFailed, one_line
from emo_core.serving.manifest import Row
from emo_core.serving.results import Outcome, Results
from emo_core.serving.wish import State
from emo_data.errors import UserError

_FIRST_LOOK, _LAST_LOOK = 0.2, 5.0
"""Seconds between two questions how far a job is, at its beginning and at most."""
_SUBMISSIONS = 3
"""Of a job that the service forgets."""

Report = Callable[[int, int, str], None]


class Phase(Protocol):
    """Shows one phase of the work while its block runs."""

    def __call__(self, name: str, /) -> AbstractContextManager[Report]: ...


class Summary(BaseModel):
    """Of a run. done: now; skipped: done before."""

    done: int
    failed: int
    skipped: int
    results: str


@dataclass(frozen=True)
class _Task:
    """A row that is to be done."""

    row: Row
    digest: str
    attempt: int

    @property
    def wish(self) -> dict[str, Any]:
        return _said(self.row)

    @property
    def key(self) -> str:
        """The same for the same work, in whichever run."""
        return _sha256(self.digest, self.row.name, self.attempt)


@contextmanager
def _silence(_: str) -> Iterator[Report]:
    yield lambda *_: None


async def batch(
    http: httpx.AsyncClient, rows: list[Row], out: Path, at_a_time: int = 8, phase: Phase = _silence
) -> Summary:
    """Have all rows made that are not. What a row fails with is told in the table alone.

    http: see `emo_core.serving.client.connect`. Raises UserError, Taken where another process is at it, and Stopped.
    """
    models = await Client(http, lambda _: None).models()
    with Results.opened(out) as results:
        with phase("checksums") as report:
            tasks = await _to_do(rows, results, report)
        _check_models([task.row for task in tasks], models)
        with phase("videos") as report:
            failed = await _Courier(http, results, len(tasks), report).deliver(tasks, at_a_time)
        table = results.write_table(rows)
    return Summary(done=len(tasks) - failed, failed=failed, skipped=len(rows) - len(tasks), results=str(table))


async def _to_do(rows: list[Row], results: Results, report: Report) -> list[_Task]:
    """Rows that are not done, or are not any more what was done."""
    tasks, known = list[_Task](), dict[Path, str]()
    for number, row in enumerate(rows):
        report(number, len(rows), "")
        for path in (row.portrait, row.audio):
            if path not in known:
                known[path] = await asyncio.to_thread(_sha256_of, path)
        digest = _sha256(known[row.portrait], known[row.audio], _said(row))
        newest = results.newest(row.name)
        if not (newest and (newest.state, newest.digest) == ("done", digest) and results.video(row.name).is_file()):
            tasks.append(_Task(row, digest, results.failures(row.name, digest)))
    return tasks


def _said(row: Row) -> dict[str, Any]:
    """What the row leaves to the service is no part of it, so that another default makes nothing again."""
    return row.wish.model_dump(exclude_unset=True)


def _check_models(rows: list[Row], models: list[str]) -> None:
    unknown = [row for row in rows if row.wish.model and row.wish.model not in models]
    if unknown:
        raise UserError(
            f"--manifest: {len(unknown)} rows, {unknown[0].name} is the first, want a model that the service has not, "
            f"{unknown[0].wish.model}; it has {one_line(', '.join(models))}"
        )


class _Courier:
    """Carries rows to a service and videos back."""

    def __init__(self, http: httpx.AsyncClient, results: Results, total: int, report: Report) -> None:
        self._client, self._results, self._total, self._report = Client(http, self._hear), results, total, report
        self._over = self._failed = 0
        self._trouble = ""

    async def deliver(self, tasks: list[_Task], at_a_time: int) -> int:
        """How many failed; of all, `results` is told."""
        waiting = iter(tasks)

        async def work() -> None:
            for task in waiting:
                outcome = await self._outcome(task)
                self._results.add(outcome)
                self._over += 1
                self._failed += outcome.state == "failed"
                self._tell()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(at_a_time, len(tasks))):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return self._failed

    async def _outcome(self, task: _Task) -> Outcome:
        start = time.monotonic()
        job: Job | None = None
        error: str | None = None
        try:
            for submission in range(1, _SUBMISSIONS + 1):
                try:
                    job = await self._client.submit(task.row.portrait, task.row.audio, task.wish, task.key)
                    await self._until_done(job)
                    await self._client.fetch(job.id, partial(self._results.new_video, task.row.name))
                    break
                except Forgotten as forgotten:
                    if submission == _SUBMISSIONS:
                        raise RowFailed(f"the service forgot the job, {_SUBMISSIONS} times") from forgotten
        except RowFailed as failure:
            error = str(failure)
        return Outcome(
            name=task.row.name,
            digest=task.digest,
            state="done" if error is None else "failed",
            error=error,
            job=None if job is None else job.id,
            frames=None if job is None else job.frames_total,
            seconds=round(time.monotonic() - start, 3),
        )

    async def _until_done(self, job: Job) -> None:
        wait, now = _FIRST_LOOK, job
        while not now.state.over:
            self._tell()
            await asyncio.sleep(wait)
            wait = min(1.5 * wait, _LAST_LOOK)
            now = await self._client.status(job.id)
        if now.state != State.DONE:
            raise RowFailed(one_line(now.error or "") or f"the job is {now.state}")

    def _hear(self, trouble: str) -> None:
        self._trouble = trouble
        self._tell()

    def _tell(self) -> None:
        notes = [f"{self._failed} failed" if self._failed else "", self._trouble]
        self._report(self._over, self._total, ", ".join(filter(None, notes)))


def _sha256(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"--manifest: {path} cannot be read: {error.strerror}") from error

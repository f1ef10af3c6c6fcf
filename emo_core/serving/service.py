"""The service without its HTTP and without its cluster: takes jobs in, has them carried out, knows how far they are."""

import asyncio
import hashlib
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from emo_core.serving.inspector import PORTRAIT, PREMIERE, SIDECAR, SOUND, VIDEO, Models, Refused
from emo_core.serving.journal import JOURNAL, Full, Journal, KeyTaken, new_id
from emo_core.serving.metrics import Metrics
from emo_core.serving.wish import Job, Look, State, Wish

_LOG = logging.getLogger(__name__)
_CHUNK = 2**20
_PATIENCE = 0.5
"""Seconds between two looks at what grows, where nobody says that it has."""
_LINGER = 60
"""Seconds after a job's end in which somebody may still look at what it was made of."""
_AFTER = 5
"""Seconds after which a client may ask again when all is full."""
_LATER = 60
"""Seconds after which a client may ask again when the disk is full."""
_ATTEMPTS = 5
"""Of a job whose maker died: a file that kills whatever reads it must not do so for ever."""


class Limits(BaseModel):
    """What one service takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: int = Field(64, ge=1, description="jobs that wait or are made")
    portrait_bytes: int = Field(30 * 2**20, ge=1)
    sound_bytes: int = Field(300 * 2**20, ge=1)
    sound_seconds: float = Field(3600, gt=0)
    short_seconds: float = Field(15, gt=0, description="of sound, for an answer that is waited for")
    keep_seconds: float = Field(86400, gt=0, description="a job's result is kept so long after its end")
    per_minute: int = Field(600, ge=1, description="requests with a body, of each address")
    free_bytes: int = Field(2**30, ge=0, description="that the disk must have left for a job to be taken")


class Upload(Protocol):
    """A file that a client sends."""

    async def read(self, size: int) -> bytes:
        """Up to so many bytes; none at its end."""


class Lost(Exception):
    """Who made a job is no more; another may go on."""


class Hands(Protocol):
    """Who does the work, in whatever process."""

    async def inspect(self, folder: Path, wish: Wish, max_seconds: float) -> int:
        """Raises Refused. See `emo_core.serving.inspector`."""

    async def look(self, folder: Path, wish: Wish) -> Look:
        """Raises Refused. See `emo_core.serving.inspector`."""

    async def draw_samples(self, folder: Path) -> None:
        """portrait.png and voice.wav, each whole or not at all. See `emo_data.synthetic`."""

    async def ready(self) -> bool:
        """Whether somebody is there to make videos."""

    def make(self, folder: Path, wish: Wish) -> AsyncIterator[float]:
        """Shares that are done, as they are; closing it ends the work. Raises Refused, and Lost."""


class Busy(Exception):
    """Too much is going on; `after` seconds from now it may be different. `str` is a sentence for the client."""

    def __init__(self, sentence: str = "full; ask again later", after: int | None = None) -> None:
        super().__init__(sentence)
        self.after = _AFTER if after is None else after


class Service:
    """To be made in a running event loop. Its folder:

    journal.sqlite    which jobs there are, see `emo_core.serving.journal`
    jobs/ID/          a job's portrait, sound, and what there is of its video; the video alone soon after its end
    samples/          a portrait and a voice to try it with

    Raises UserError where another service has the folder.
    """

    def __init__(self, folder: Path, models: Models, hands: Hands, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self._hands, self._jobs, self._samples = hands, folder / "jobs", folder / "samples"
        self._one_sample = asyncio.Lock()
        self._jobs.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / JOURNAL)
        self._disk_was_full = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changes: dict[str, asyncio.Event] = {}
        self._arriving: set[str] = set()
        self.metrics = Metrics(self._journal.counts, limits.queue)
        self._sweep()
        for job in self._journal.open_jobs():
            self._journal.wait(job.id)
            self._carry_out(job)
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def close(self) -> None:
        """Let go of everything; jobs go on where they are when the service comes back."""
        tasks = [self._sweeper, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._journal.close()

    def video(self, job: Job) -> Path:
        """Where its result lies, once it is done."""
        return self._jobs / job.id / VIDEO

    def get(self, job: str) -> Job | None:
        """None where there is none, or no longer."""
        return self._journal.get(job)

    async def ready(self) -> bool:
        """Whether a job that is accepted now is begun soon."""
        return await self._hands.ready()

    async def news(self, known: Job, seconds: float) -> bool:
        """Wait until a job is not any more as it is known, or is over; False where nothing happens for so long."""
        now = self.get(known.id)
        if now != known or known.state.over:
            return True
        change = self._changes.setdefault(known.id, asyncio.Event())
        try:
            await asyncio.wait_for(change.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def watch(self, job: str) -> AsyncIterator[bytes]:
        """The video while it is made, to its end: a fragmented mp4. Of a job that failed, what there was of it."""
        premiere = self._jobs / job / PREMIERE
        while (now := self.get(job)) is not None and not now.state.over and not premiere.exists():
            await self.news(now, _PATIENCE)
        path = premiere if premiere.exists() else self._jobs / job / VIDEO
        if now is None or not path.exists():
            return
        # Another maker that goes on begins the file anew with the same bytes: this one waits until it is past here.
        with path.open("rb", buffering=0) as file:
            while True:
                now = self.get(job)
                while chunk := await asyncio.to_thread(file.read, _CHUNK):
                    yield chunk
                if now is None or now.state.over:
                    return
                await self.news(now, _PATIENCE)

    async def look(self, portrait: Upload, wish: Wish) -> Look:
        """What a video of a portrait would show, before there is a sound. Raises Refused, and Busy."""
        name, _ = self.models.named(wish.model)
        if len(self._arriving) >= self.limits.queue:
            raise Busy
        with self._place(new_id()) as folder:
            await _receive("portrait", portrait, folder / PORTRAIT, self.limits.portrait_bytes, hashlib.sha256())
            return await self._hands.look(folder, wish.model_copy(update={"model": name}))

    async def sample(self, name: str) -> Path:
        """ "portrait.png" or "voice.wav": something to try it with, made when it is first asked for."""
        place = self._samples / name
        if not place.exists():
            async with self._one_sample:
                if not place.exists():
                    await self._hands.draw_samples(self._samples)
        return place

    def busy(self, key: str | None) -> Busy | None:
        """Why no job can be taken now; None where one can, and where the key stands for one that was."""
        if key is not None and self._journal.has(key):
            return None
        if self._full(len(self._arriving)):
            return Busy()
        was_full, self._disk_was_full = (
            self._disk_was_full,
            shutil.disk_usage(self._jobs).free < self.limits.free_bytes,
        )
        if not self._disk_was_full:
            return None
        if not was_full:
            _LOG.warning("the disk is nearly full", extra={"folder": str(self._jobs)})
        return Busy("the disk of the service is full; ask again later", _LATER)

    @contextmanager
    def _place(self, job: str) -> Iterator[Path]:
        """The folder of a job that is arriving; gone after the block where it was not accepted."""
        folder = self._jobs / job
        self._arriving.add(job)
        try:
            folder.mkdir()
            yield folder
        finally:
            self._arriving.remove(job)
            if self._journal.get(job) is None:
                shutil.rmtree(folder, ignore_errors=True)

    async def submit(
        self, portrait: Upload, sound: Upload, wish: Wish, key: str | None, max_seconds: float | None = None
    ) -> Job:
        """Take a job in; what is returned is on the disk. The same key and the same request are the same job.

        max_seconds: of sound, where less than usual is taken. Raises Refused, and Busy.
        """
        name, _ = self.models.named(wish.model)
        wish = wish.model_copy(update={"model": name})
        if busy := self.busy(key):
            raise busy
        job = new_id()
        try:
            with self._place(job) as folder:
                digest = hashlib.sha256(wish.model_dump_json().encode())
                await _receive("portrait", portrait, folder / PORTRAIT, self.limits.portrait_bytes, digest)
                await _receive("audio", sound, folder / SOUND, self.limits.sound_bytes, digest)
                said = digest.hexdigest()
                accepted = None if key is None else self._journal.known(key, said)
                if accepted is None:
                    if self._full():
                        raise Busy  # it has filled up meanwhile; to inspect costs more than to ask again
                    most = min(max_seconds or self.limits.sound_seconds, self.limits.sound_seconds)
                    frames = await self._hands.inspect(folder, wish, most)
                    accepted = self._journal.accept(job, wish, frames, said, key, self.limits.queue)
        except Full as error:
            raise Busy from error
        except KeyTaken as error:
            raise Refused(422, "Idempotency-Key: it was given with another request; take a new one") from error
        if accepted.id == job:
            _LOG.info("accepted", extra={"job": job, "model": name, "frames": accepted.frames_total})
            self._carry_out(accepted)
        return accepted

    async def cancel(self, job: str) -> None:
        """Nobody wants it any more. What is over stays as it is."""
        if self._end(job, State.CANCELLED):
            task = self._tasks.get(job)
            if task is not None:
                task.cancel()

    def _carry_out(self, job: Job) -> None:
        task = asyncio.create_task(self._until_over(job), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))

    async def _until_over(self, job: Job) -> None:
        began: float | None = None
        attempt, best, reason, sentence = 0, -1, "", ""
        while attempt < _ATTEMPTS:
            done = -1
            try:
                async with aclosing(self._hands.make(self._jobs / job.id, job.wish)) as shares:  # type: ignore[type-var]
                    async for share in shares:
                        if began is None:
                            began = time.monotonic()
                            self.metrics.waited.observe(max(time.time() - job.accepted, 0))
                            _LOG.info("begun", extra={"job": job.id})
                        done, before = int(share * job.frames_total), done
                        if done != before:  # what it says is on the disk first, which takes its time
                            self._journal.advance(job.id, done)
                            self._tell(job.id)
                if self._end(job.id, State.DONE):
                    self.metrics.frames.inc(job.frames_total)
                    if began is not None:
                        self.metrics.seconds_per_frame.observe((time.monotonic() - began) / job.frames_total)
                return
            except Refused as refused:
                self._fail(job.id, "input", refused.sentence)
                return
            except Lost:
                self.metrics.lost.inc()
                reason, sentence = "makers died", f"whoever made it died, {_ATTEMPTS} times"
                _LOG.warning("lost its maker", extra={"job": job.id})
            except Exception:  # noqa: BLE001 (the log has it; a device or a disk may be well again)
                reason, sentence = "error", "something went wrong in the service; its log says what"
                _LOG.exception("went wrong", extra={"job": job.id})
            # Who comes farther each time comes to the end.
            attempt, best = (0 if done > best else attempt) + 1, max(best, done)
            self._journal.wait(job.id)
            self._tell(job.id)
            await asyncio.sleep(attempt - 1)
        self._fail(job.id, reason, sentence)

    def _fail(self, job: str, reason: str, sentence: str) -> None:
        if self._end(job, State.FAILED, sentence):
            self.metrics.failures.labels(reason).inc()

    def _end(self, job: str, state: State, error: str | None = None) -> bool:
        """False where it was over already."""
        ended = self._journal.end(job, state, error)
        if ended:
            self.metrics.ended.labels(state).inc()
            _LOG.info(str(state), extra={"job": job} | ({} if error is None else {"reason": error}))
            # Who watches has it open; who comes from now on sees the whole video.
            (self._jobs / job / PREMIERE).unlink(missing_ok=True)
        self._tell(job)
        return ended

    def _tell(self, job: str) -> None:
        change = self._changes.pop(job, None)
        if change is not None:
            change.set()

    def _full(self, more: int = 0) -> bool:
        return len(self._tasks) + more >= self.limits.queue

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(min(self.limits.keep_seconds, 60))
            try:
                await asyncio.to_thread(self._sweep)
            except (OSError, sqlite3.Error):
                _LOG.exception("could not look what is to be cleared up; tries again")

    def _sweep(self) -> None:
        """Forget jobs that have been over for long enough, and requests that were never accepted; what a job was made
        of goes before its video does."""
        # In this order: what is not arriving any more is in the journal, or was refused.
        folders, arriving, ends = list(self._jobs.iterdir()), set(self._arriving), self._journal.ends()
        now = time.time()
        old = {job for job, ended in ends.items() if ended is not None and ended < now - self.limits.keep_seconds}
        for job in old:
            self._journal.forget(job)
        for folder in folders:
            if folder.name in arriving:
                continue
            ended = ends.get(folder.name)
            try:
                if folder.name in old or folder.name not in ends:
                    shutil.rmtree(folder)
                elif ended is not None and ended < now - _LINGER:
                    _keep_the_video(folder)
            except FileNotFoundError:
                pass  # whoever refused the request, or was still at the job, cleared it up too
            except OSError as error:  # the others are not to wait for this one
                _LOG.warning("could not clear up; tries again", extra={"folder": str(folder), "reason": str(error)})


def _keep_the_video(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (VIDEO, SIDECAR):
            path.unlink()


async def _receive(name: str, upload: Upload, path: Path, limit: int, digest: "hashlib._Hash") -> None:
    """Write a client's file to the disk, to stay there. digest: is told of it. Raises Refused."""
    size = 0
    with path.open("wb") as file:
        while chunk := await upload.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise Refused(413, f"{name}: it has more than {limit:,} bytes, the most that is taken here")
            file.write(chunk)
            digest.update(chunk)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    digest.update(size.to_bytes(8, "big"))
    if not size:
        raise Refused(422, f"{name}: the file is empty")

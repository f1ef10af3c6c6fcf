"""Runs child.py and outlives whatever happens in it: a crash, a hang (even one that holds the GIL), memory eaten up."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Self

import psutil

from emo_data.ingest import child
from emo_data.schema import Reason


@dataclass(frozen=True)
class Limits:
    """How long and how much a child may, before it is ended."""

    silence: float = 60.0
    """Seconds without a sign of progress."""
    start: float = 300.0
    """Seconds until it is ready: on a loaded machine the first import of everything takes its time."""
    memory: int = 4 * 2**30
    """Bytes."""
    seconds_per_second: float = 20.0
    """Seconds of work per second of video, after ten minutes that are granted to each request."""
    requests: int = 200
    """After so many requests a child is replaced by a fresh one, ..."""
    growth: int = 2**30
    """... and after so many bytes of growth, for native libraries leak."""


class Fault(Exception):
    """The child did not answer. `reason` is one of schema.FAULTS."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    connection: Connection
    noise: IO[bytes]
    requests: int = 0
    base: int = 0


@dataclass
class Contained:
    """One child at a time, started when it is first needed. Use with `with`."""

    limits: Limits = field(default_factory=Limits)
    _running: _Running | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, request: bytes, seconds: float = 0.0) -> tuple[bytes, bytes]:
        """The kind and the content of the answer. seconds: of video that the request is about. Raises Fault."""
        running = self._running or self._started()
        try:
            running.connection.send_bytes(request)
            kind, content = self._wait(running, self.limits.silence, 600 + seconds * self.limits.seconds_per_second)
        except OSError as error:  # it died before it could be asked
            raise self._dead(running) from error
        running.requests += 1
        if kind == child.RAISED:
            self.end()
            raise Fault(Reason.FAILED, content.decode(errors="replace"))
        if kind == child.FULL:
            self.end()
            raise Fault(Reason.OUT_OF_MEMORY, "the system gave no more memory")
        running.base = running.base or _resident(running)
        if running.requests >= self.limits.requests or _resident(running) - running.base > self.limits.growth:
            self.end()
        return kind, content

    def end(self) -> None:
        """Kill the child, if there is one."""
        if self._running is not None:
            running, self._running = self._running, None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
            running.connection.close()
            running.noise.close()

    def _started(self) -> _Running:
        ours, theirs = Pipe()
        noise = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        # -P: a folder of foreign files may hold a numpy.py, and here may be there.
        command = [sys.executable, "-P", "-m", "emo_data.ingest.child", str(theirs.fileno())]
        with theirs:
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=noise,
                stderr=noise,
                start_new_session=True,
            )
        self._running = running = _Running(process, ours, noise)
        self._wait(running, self.limits.start, self.limits.start)
        return running

    def _wait(self, running: _Running, silence: float, ceiling: float) -> tuple[bytes, bytes]:
        """The next message that is no sign of life."""
        start = heard = time.monotonic()
        while True:
            if running.connection.poll(0.1):
                try:
                    message = running.connection.recv_bytes()
                except (EOFError, OSError) as error:
                    raise self._dead(running) from error
                heard = time.monotonic()
                if message != child.BEAT:
                    return message[:1], message[1:]
            now = time.monotonic()
            if now - heard > silence or now - start > ceiling:
                self.end()
                raise Fault(
                    Reason.HUNG, f"no end after {now - start:.0f} s, {now - heard:.0f} s of them without progress"
                )
            if _resident(running) > self.limits.memory:
                self.end()
                raise Fault(Reason.OUT_OF_MEMORY, f"it takes more than {self.limits.memory / 2**30:.3g} GiB of memory")

    def _dead(self, running: _Running) -> Fault:
        """What to say of a child that is no more."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(timeout=5)
        code = running.process.returncode
        running.noise.seek(max(0, running.noise.seek(0, os.SEEK_END) - 300))
        last = running.noise.read().decode(errors="replace").strip().rpartition("\n")[2]
        self.end()
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        return Fault(Reason.CRASHED, f"the decoding process died ({how})" + (f": {last}" if last else ""))


def _resident(running: _Running) -> int:
    """Bytes of memory that the child holds; 0 when it is gone."""
    try:
        return int(psutil.Process(running.process.pid).memory_info().rss)
    except psutil.Error:
        return 0

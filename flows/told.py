"""What a job tells while it works, written down now and then; and a beat, which shows that it lives."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from flows.notes import Notes, Progress, Result, as_json
from flows.progress import Report, progress

_BEAT, _BEAT_IN_A_STORE = 2.0, 5.0
"""Seconds between two times that progress is written."""


class Told:
    """Collects what is told, from any thread."""

    def __init__(self, notes: Notes) -> None:
        self._notes, self._now = notes, Progress()
        self._drawn: dict[str, float] = {}
        self._over, self._lock = threading.Event(), threading.Lock()
        self._beats = threading.Thread(target=self._beat, daemon=True, name="progress")

    def __enter__(self) -> Self:
        self._write()
        self._beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._beats.join()
        self._write()

    def end(self, result: Result) -> None:
        """The last word."""
        self._notes.folder.write("result.json", as_json(result))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[Report]:
        """As `flows.progress.progress`, which it does, too: its lines are the log."""
        self.set(phase=name, done=0, total=0, note="")
        with progress(name) as lines:

            def report(done: int, total: int, note: str = "", /) -> None:
                lines(done, total, note)
                self.set(done=done, total=total, note=note)

            yield report

    def set(self, **what: object) -> None:
        """Fields of `Progress`."""
        with self._lock:
            self._now = self._now.model_copy(update=what)

    def count(self, **more: float) -> None:
        """Add to what is counted."""
        with self._lock:
            counts = self._now.counts
            self._now = self._now.model_copy(
                update={"counts": counts | {name: counts.get(name, 0) + number for name, number in more.items()}}
            )

    def page(self, name: str, text: str) -> None:
        """Have Markdown shown."""
        self.set(pages=self._now.pages | {name: text})

    def picture(self, name: str, draw: Callable[[Path], object], every: float = 0.0) -> None:
        """Have a PNG drawn and shown, unless that has been done in the last so many seconds."""
        now = time.monotonic()
        if now - self._drawn.get(name, -every) < every:
            return
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{name}.png"
            draw(path)
            if not path.exists():  # there is nothing to see yet
                return
            self._drawn[name] = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk is for the work to notice, not for its pictures
                self._notes.folder.put(f"pictures/{name}.png", path)
        pictures = self._now.pictures
        self.set(pictures=pictures | {name: pictures.get(name, 0) + 1})

    def _beat(self) -> None:
        seconds = _BEAT if self._notes.folder.local else _BEAT_IN_A_STORE
        while not self._over.wait(seconds):
            with contextlib.suppress(OSError):  # the next beat may come through; if none does, that is noticed
                self._write()

    def _write(self) -> None:
        with self._lock:
            self._now = self._now.model_copy(update={"beat": self._now.beat + 1})
            now = self._now
        self._notes.folder.write("progress.json", as_json(now))

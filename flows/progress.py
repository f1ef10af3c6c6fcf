"""How far a piece of work has come, on stderr: a bar with the time left on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

_SHORTEST_SILENCE = 5.0
_LONGEST_SILENCE = 30.0
"""Seconds between plain lines: a log stays readable, and nobody takes slow work for dead work."""


class Report(Protocol):
    """Call it as often as you like: how many of how many units are done, and perhaps a word on the current one."""

    def __call__(self, done: int, total: int, note: str = "", /) -> None: ...


class Phase(Protocol):
    """Shows one phase of work while its block runs."""

    def __call__(self, phase: str, /) -> AbstractContextManager[Report]: ...


@contextmanager
def progress(phase: str) -> Iterator[Report]:
    """Show one phase of work while the block runs; the last line says how long it took, unless it failed."""
    with _bar(phase) if sys.stderr.isatty() else _lines(phase) as report:
        yield report


@contextmanager
def _bar(phase: str) -> Iterator[Report]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}", markup=False),
    )
    # A speed averaged over two minutes: steps and clips take unequal time, and a jumping forecast is worth nothing.
    # Its own descriptor: MediaPipe's noise is kept off the terminal by turning descriptor 2 away while it works.
    with (
        os.fdopen(os.dup(2), "w") as terminal,
        rich.Progress(*columns, console=Console(file=terminal, force_terminal=True), speed_estimate_period=120) as bar,
    ):
        task = bar.add_task(phase, total=None, note="")

        def report(done: int, total: int, note: str = "", /) -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield report
        known = bar.tasks[0].total or 1
        bar.update(task, completed=known, total=known, note="")


@contextmanager
def _lines(phase: str) -> Iterator[Report]:
    start = said = time.monotonic()
    shown = 0  # tenths

    def report(done: int, total: int, note: str = "", /) -> None:
        nonlocal said, shown
        now = time.monotonic()
        share, tenths = (done / total, 10 * done // total) if total else (0.0, 0)
        silence = now - said
        if silence < _SHORTEST_SILENCE or (tenths == shown and silence < _LONGEST_SILENCE):
            return
        said, shown = now, tenths
        left = f", {clock((now - start) * (1 - share) / share)} left" if share else ""
        _print(f"{phase}: {done} of {total} ({share:.0%}){left}{'  ' + note if note else ''}")

    yield report
    _print(f"{phase}: done in {clock(time.monotonic() - start)}")


def clock(seconds: float) -> str:
    """Seconds as a person reads them: 7.3 s, 4:05 min, 2:03:04 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

"""What every launcher can do. A job has one id, so that whoever knows it can find the job again."""

from enum import StrEnum
from typing import Protocol

from flows.notes import Spec


class Life(StrEnum):
    """Of a job."""

    UNKNOWN = "unknown"
    """Never started, or forgotten."""
    RUNNING = "running"
    ENDED = "ended"


class JobLost(RuntimeError):
    """A job ended without a result, or cannot be found or started; doing it again may help."""


class Launcher(Protocol):
    """Starts jobs somewhere. All but `submit` may be called by anybody at any time."""

    def submit(self, spec: Spec) -> None:
        """Start it; what an ended job with this id left behind is forgotten. Raises JobLost."""

    def status(self, job: str) -> tuple[Life, str]:
        """And a word on how it ended. Raises JobLost where nobody can tell."""

    def stop(self, job: str) -> None:
        """Ask it to stop, then end it with all its processes. Returns when nothing of it runs any more."""

    def logs(self, job: str, start: int) -> tuple[str, int]:
        """What it has said since, and what to give as `start` the next time; 0 is its beginning."""

    def link(self, job: str) -> str:
        """Where a person can look at it; "" where there is no such place."""

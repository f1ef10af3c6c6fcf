"""What a run tells about its steps: metrics.jsonl, and the same for TensorBoard."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from emo_core.training.run_folder import RunFolder
from emo_data.errors import UserError
from emo_data.objects import Folder

SECONDS = 15.0
"""At most so much of what was told is lost when the process dies; what lies after its last checkpoint is told again."""

Line = dict[str, float]


class Record:
    """Lines by step. Where a run goes on, what was told of steps after its checkpoint is forgotten."""

    def __init__(self, run: RunFolder, step: int) -> None:
        self._run, self._written = run, time.monotonic()
        self.lines = [line for line in read_metrics(run.folder) if line["step"] <= step]
        self._scratch = None if run.folder.local else tempfile.TemporaryDirectory()
        self._events = Path(run.url) / "tensorboard" if self._scratch is None else Path(self._scratch.name)
        self._events.mkdir(exist_ok=True)
        # Written on this thread: tensorboardX's own would die of a full disk in silence, and what waits for it, too.
        self._board = EventsWriter(str(self._events / "events"))
        self._tell(0, file_version="brain.Event:2")
        self._tell(step + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, _: object) -> None:
        try:
            if not isinstance(error, UserError):  # then it may be the disk, which would be said a second time
                self.flush()
                self._board.close()
        finally:
            if self._scratch is not None:
                self._scratch.cleanup()

    def add(self, line: Line) -> None:
        """The figures of a step; one of them is its number."""
        self.lines.append(line)
        for key, value in line.items():
            if key != "step":
                self._tell(int(line["step"]), summary=scalar(key, value))
        if time.monotonic() - self._written > SECONDS:
            self.flush()

    def _tell(self, step: int, **what: Any) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, **what))

    def flush(self) -> None:
        """Write all of it; a run of a hundred thousand steps tells 15 MB."""
        with self._run.writing("metrics.jsonl"):
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            self._run.folder.write("metrics.jsonl", text.encode())
            self._board.flush()
            if self._scratch is not None:
                for path in self._events.iterdir():
                    self._run.folder.write(f"tensorboard/{path.name}", path.read_bytes())
        self._written = time.monotonic()


def read_metrics(run: Folder) -> list[Line]:
    """The lines of a run's metrics.jsonl, oldest first."""
    try:
        return [json.loads(line) for line in run.read("metrics.jsonl").splitlines()]
    except FileNotFoundError:
        return []

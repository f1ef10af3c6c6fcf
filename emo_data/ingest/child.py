"""The process in which native code meets files that nobody vouches for: `python -m emo_data.ingest.child DESCRIPTOR`.

It may crash, hang or eat memory: whoever started it (contain.py) ends it and starts another. Messages are bytes, never
pickles: a request is JSON; an answer is a letter and its content, `.` for "still at work".
"""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from emo_data.ingest.config import IngestConfig
from emo_data.ingest.plan import Chunk
from emo_data.ingest.watch import survey_video, watch
from emo_data.schema import CLIP_SCHEMA, REJECTION_SCHEMA, table_of

BEAT, READY, SURVEYED, WATCHED, RAISED, FULL = b".", b"!", b"s", b"w", b"e", b"m"
_BEAT_SECONDS = 0.5


def survey_request(path: Path, sha256: str, config: IngestConfig) -> bytes:
    """Ask what is in a file; answered by SURVEYED and a line of JSON."""
    return _request("survey", path, config, {"sha256": sha256})


def watch_request(path: Path, chunk: Chunk, config: IngestConfig) -> bytes:
    """Ask for a chunk's rows; answered by WATCHED and two tables, see `tables`."""
    return _request("watch", path, config, {"chunk": asdict(chunk)})


def _request(do: str, path: Path, config: IngestConfig, more: dict[str, Any]) -> bytes:
    return json.dumps({"do": do, "path": str(path), "config": config.model_dump_json(), **more}).encode()


def tables(content: bytes) -> tuple[pa.Table, pa.Table]:
    """Clips and rejections out of an answer."""
    length = int.from_bytes(content[:8], "big")
    clips, rejections = memoryview(content)[8 : 8 + length], memoryview(content)[8 + length :]
    return pa.ipc.open_stream(clips).read_all(), pa.ipc.open_stream(rejections).read_all()


def packed(clips: pa.Table, rejections: pa.Table) -> bytes:
    """The reverse of `tables`."""
    streams = []
    for table in (clips, rejections):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        streams.append(sink.getvalue().to_pybytes())
    return len(streams[0]).to_bytes(8, "big") + streams[0] + streams[1]


def _answer(request: dict[str, Any], beat: Callable[[], None]) -> bytes:
    path, config = Path(request["path"]), IngestConfig.model_validate_json(request["config"])
    if request["do"] == "survey":
        return SURVEYED + survey_video(path, request["sha256"], config, beat).to_json().encode()
    rows = watch(path, Chunk(**request["chunk"]), config, beat)
    return WATCHED + packed(table_of(rows.clips, CLIP_SCHEMA), table_of(rows.rejections, REJECTION_SCHEMA))


def _die_with_parent() -> None:
    """What hangs here must not outlive the process that could end it; and it is the first to go for want of memory."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption at the keyboard is the parent's to answer
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Answer requests until the other end is closed."""
    _die_with_parent()
    connection = Connection(int(sys.argv[1]))
    said = 0.0

    def beat() -> None:
        nonlocal said
        if time.monotonic() - said > _BEAT_SECONDS:
            said = time.monotonic()
            connection.send_bytes(BEAT)

    connection.send_bytes(READY)
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            answer = _answer(request, beat)
        except MemoryError:
            answer = FULL
        except Exception as error:  # noqa: BLE001 - a fault of ours or of a library: it becomes the answer
            place = traceback.extract_tb(error.__traceback__)[-1]
            answer = RAISED + f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})".encode()
        connection.send_bytes(answer)


if __name__ == "__main__":
    main()

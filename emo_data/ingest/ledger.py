"""What was tried and what is done of a dataset in the making, chunk by chunk, in DATASET/work/chunks.

A process that dies takes its memory with it, but not this: a chunk that killed its worker again and again is known, and
the next run starts from the chunks that were done. An entry is removed once its unit has a commit record.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from emo_data.ingest.plan import Chunk
from emo_data.objects import Folder
from emo_data.store import Piece

_FOLDER = "work/chunks"
TRIES_IN_A_RUN = 3
TRIES_IN_ALL = 9
"""Runs that are interrupted count, too, but it takes many of them to condemn a chunk."""


class Ledger:
    """run: what tells this run from others."""

    def __init__(self, folder: Folder, run: str) -> None:
        self._folder, self._run = folder, run

    def piece(self, chunk: Chunk) -> Piece | None:
        """What came of the chunk, if it is done."""
        done = self._read(chunk)["piece"]
        return done and Piece.from_json(done)

    def begin(self, chunk: Chunk) -> bool:
        """Count an attempt before it is made. False: there were too many that did not come back."""
        earlier = self._read(chunk)
        in_run = earlier["in_run"] + 1 if earlier["run"] == self._run else 1
        in_all = earlier["in_all"] + 1
        self._write(chunk, {"run": self._run, "in_run": in_run, "in_all": in_all, "piece": None})
        return in_run <= TRIES_IN_A_RUN and in_all <= TRIES_IN_ALL

    def finish(self, chunk: Chunk, piece: Piece) -> None:
        """The chunk's rows are written."""
        self._write(chunk, self._read(chunk) | {"piece": asdict(piece)})

    def finished(self) -> dict[tuple[str, str], Piece]:
        """What earlier runs did: label and origin of a chunk -> its piece."""
        names = self._folder.names(_FOLDER)
        entries = [json.loads(data) for data in self._folder.read_all(names)]
        return {
            (name.removeprefix(f"{_FOLDER}/").removesuffix(".json"), entry["made_from"]): Piece.from_json(
                entry["piece"]
            )
            for name, entry in zip(names, entries, strict=True)
            if entry["piece"]
        }

    def forget(self, chunks: Iterable[Chunk]) -> None:
        """Their unit is committed."""
        self._folder.delete([_name(chunk) for chunk in chunks])

    def clear(self) -> None:
        """The run is over: nothing that is not committed was worth keeping."""
        self._folder.delete(self._folder.names(_FOLDER))
        self._folder.sweep_unfinished(_FOLDER)

    def _read(self, chunk: Chunk) -> dict[str, Any]:
        try:
            entry: dict[str, Any] = json.loads(self._folder.read(_name(chunk)))
        except FileNotFoundError:
            entry = {}
        fresh = {"run": "", "in_run": 0, "in_all": 0, "piece": None}
        return entry if entry.get("made_from") == chunk.made_from() else fresh

    def _write(self, chunk: Chunk, entry: dict[str, Any]) -> None:
        self._folder.write(_name(chunk), json.dumps(entry | {"made_from": chunk.made_from()}).encode())


def _name(chunk: Chunk) -> str:
    return f"{_FOLDER}/{chunk.label}.json"

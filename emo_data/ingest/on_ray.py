"""Workers as Ray Data actors: a local Ray by default, any cluster by its address.

Only chunk specs and receipts travel; rows go from the actor that made them to the dataset. Where a second pool listens
on GPUs, the rows of a chunk (never its frames) pass through the object store once.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import psutil
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from emo_data.cores import cores
from emo_data.ingest import child
from emo_data.ingest.plan import Chunk, Survey
from emo_data.ingest.run import Crew, CrewOf
from emo_data.ingest.worker import Looked, Receipt, Setup, Worker
from emo_data.on_ray import connected

_MEMORY_PER_WORKER = 2 * 2**30
"""Bytes for a worker and its child: 1.5 GiB is usual, and large pictures need more."""
_MOST_BLOCKS = 10_000


def ray_crew(workers: int, address: str = "local", listeners: int = 0) -> CrewOf:
    """A crew of `workers` actors; with `listeners`, as many more with a GPU each compute the audio features.

    address: "local" starts a Ray that ends with the crew, "auto" finds this machine's. UserError where none answers.
    """

    @contextmanager
    def crew(setup: Setup) -> Iterator[Crew]:
        with connected(address, max(workers, 1) + 1):  # Ray Data's own tasks need a place, too
            # On a cluster Ray finds a place with room for a worker; here `workers_here` has seen to that.
            yield _RayCrew(setup, workers, listeners, None if address == "local" else _MEMORY_PER_WORKER)

    return crew


def workers_here() -> int:
    """How many workers this machine has cores and memory for."""
    return max(1, min(cores(), psutil.virtual_memory().available // _MEMORY_PER_WORKER))


class _RayCrew:
    def __init__(self, setup: Setup, workers: int, listeners: int, memory: int | None) -> None:
        self._setup, self._workers, self._listeners, self._memory = setup, workers, listeners, memory

    def survey(self, uris: list[str]) -> Iterator[tuple[str, Survey]]:
        rows = [json.dumps(uri) for uri in uris]  # names need not be UTF-8, columns must be
        for answer in self._pool(_specs(rows), _SurveyActor, min(self._workers, len(rows))).iter_rows():
            yield json.loads(answer["spec"]), Survey.from_json(answer["survey"])

    def ingest(self, chunks: list[Chunk]) -> Iterator[Receipt]:
        specs, workers = _specs([json.dumps(asdict(chunk)) for chunk in chunks]), min(self._workers, len(chunks))
        if not self._listeners:
            answers = self._pool(specs, _IngestActor, workers)
        else:
            looked = self._pool(specs, _LookActor, workers)
            answers = self._pool(looked, _HearActor, min(self._listeners, len(chunks)), num_gpus=1)
        for answer in answers.iter_rows():
            yield Receipt.from_json(answer["receipt"])

    # Ray retries without end what its worker died of: how often a chunk may do that, the ledger decides.
    def _pool(self, rows: Dataset, actor: type, size: int, num_gpus: int = 0) -> Dataset:
        return rows.map(
            actor,
            fn_constructor_args=(self._setup,),
            compute=ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
            num_cpus=0 if num_gpus else 1,
            num_gpus=num_gpus,
            memory=self._memory,
        )


def _specs(rows: list[str]) -> Dataset:
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the progress shown is ours
    DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items([{"spec": row} for row in rows], override_num_blocks=min(len(rows), _MOST_BLOCKS))


class _Actor:
    def __init__(self, setup: Setup) -> None:
        self._worker = Worker(setup)


class _SurveyActor(_Actor):
    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"spec": row["spec"], "survey": self._worker.survey(json.loads(row["spec"])).to_json()}


class _IngestActor(_Actor):
    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"receipt": self._worker.ingest(Chunk(**json.loads(row["spec"]))).to_json()}


class _LookActor(_Actor):
    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        looked = self._worker.look(Chunk(**json.loads(row["spec"])))
        return {"spec": row["spec"], "tables": b"" if looked.tables is None else child.packed(*looked.tables)}


class _HearActor(_Actor):
    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        tables = child.tables(row["tables"]) if row["tables"] else None
        return {"receipt": self._worker.hear_and_write(Looked(Chunk(**json.loads(row["spec"])), tables)).to_json()}

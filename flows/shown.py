"""What Prefect's page of a run shows while it runs: progress, counts, pictures, where things are."""

import base64
import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Self
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from flows.notes import Notes, Progress
from flows.progress import clock

_SECONDS = 5.0
"""Between two updates of one artifact: each is a request, and a row of the server's history of events."""
_LONGEST = 100_000
"""Characters of a message: a server refuses long ones."""


class Shown:
    """Artifacts of the run that this is called in; where there is none, the log alone."""

    def __init__(self, name: str, notes: Notes) -> None:
        """name: becomes the beginning of the artifacts' keys."""
        self._name, self._notes = name, notes
        run, job = FlowRunContext.get(), TaskRunContext.get()
        self._run = run.flow_run.id if run and run.flow_run else None
        self._job = job.task_run.id if job else None
        self.log: Any = get_run_logger() if self._run else logging.getLogger("emo")
        self._client: SyncPrefectClient | None = None
        self._made: dict[str, UUID] = {}
        self._told: dict[str, object] = {}
        self._when: dict[str, float] = {}
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        if self._run:
            self._client = get_client(sync_client=True)
            self._client.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._client:
            self._client.__exit__(*error)

    def lines(self, text: str) -> None:
        """What the job has said, into the run's log."""
        for start in range(0, len(text), _LONGEST):
            self.log.info("%s", text[start : start + _LONGEST])

    def places(self, places: Mapping[str, str]) -> None:
        """Where things are: name -> path or address."""
        rows = [f"| {name} | {_linked(place)} |" for name, place in places.items() if place]
        self._show("places", "markdown", "\n".join(["| what | where |", "|---|---|", *rows]), "Where things are")

    def progress(self, now: Progress, over: bool = False) -> None:
        """How far it is. over: this is the last that is to be told."""
        share = 100.0 if over else 100.0 * now.done / now.total if now.total else 0.0
        told = f"{now.phase}: {now.done} of {now.total} {now.note}" if now.total else f"{now.phase} {now.note}"
        told += f", for {clock(time.monotonic() - self._start)}"
        if self._due("progress", now.mark, over):
            self._show("progress", "progress", round(share, 1), told)
        if now.counts and self._due("counts", now.counts, over):
            rows = [{"what": name, "how many": round(number, 2)} for name, number in sorted(now.counts.items())]
            self._show("counts", "table", json.dumps(rows), "Counted so far")
        for name, text in now.pages.items():
            if self._due(name, text, over):
                self._show(name, "markdown", text, name)
        for name, times in now.pictures.items():
            if self._due(name, times, over) and (png := self._notes.picture(name)):
                self._show(name, "image", f"data:image/png;base64,{base64.b64encode(png).decode()}", name)

    def _due(self, key: str, told: object, over: bool) -> bool:
        """Whether it is news, and not too soon."""
        now = time.monotonic()
        if self._told.get(key) == told and not over:
            return False
        if now - self._when.get(key, -_SECONDS) < _SECONDS and not over:
            return False
        self._told[key], self._when[key] = told, now
        return True

    def _show(self, key: str, kind: str, data: Any, what: str) -> None:
        if self._client is None:
            return
        try:
            self._send(self._client, key, kind, data, what)
        except httpx.HTTPError as error:  # a server that is away for a while is no reason to stop a job
            self.log.warning("%s could not be shown: %s", key, error)

    def _send(self, client: SyncPrefectClient, key: str, kind: str, data: Any, what: str) -> None:
        if key in self._made:
            client.update_artifact(self._made[key], ArtifactUpdate(data=data, description=what))
            return
        made = client.create_artifact(
            ArtifactCreate(
                key=f"{self._name}-{key}",
                type=kind,
                data=data,
                description=what,
                flow_run_id=self._run,
                task_run_id=self._job,
            )
        )
        self._made[key] = made.id


def _linked(place: str) -> str:
    return f"[{place}]({place})" if place.startswith(("http://", "https://")) else f"`{place}`"

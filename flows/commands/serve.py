"""The command that puts a model into service on this machine."""

from typing import Annotated

import typer

from emo_data.errors import UserError
from flows.commands.options import Device, choose_device


def serve(
    model: Annotated[
        list[str], typer.Option(metavar="[ID=]MODEL", help="RUN/model of stage 2 or 3; several times for several.")
    ],
    host: Annotated[str, typer.Option(help="Another than the loopback needs EMO_TOKEN.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Videos that are made at a time.")] = 1,
    jobs: Annotated[str, typer.Option(metavar="DIR", help="For jobs and their videos: they outlive the service.")] = (
        "build/service"
    ),
    queue: Annotated[int, typer.Option(min=1, help="Jobs that wait or are made; more are asked to come again.")] = 64,
    per_minute: Annotated[int, typer.Option(min=1, help="Requests with a body that an address may send.")] = 600,
    device: Device = "auto",
) -> None:
    """A portrait and a sound by HTTP, a video back: the endpoint on this machine, until it is interrupted."""
    import os
    import sqlite3
    from pathlib import Path

    here = host in ("127.0.0.1", "localhost", "::1")
    if not here and not os.environ.get("EMO_TOKEN"):
        raise UserError(f"--host {host}: others could reach it; set EMO_TOKEN, which they must then show")
    from emo_core.serving.journal import JOURNAL, Journal
    from emo_core.serving.on_ray import Settings, serve_here
    from emo_core.serving.service import Limits

    models, folder = _named(model), Path(jobs).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Said now, not by a process far away. What is left of a service that was killed lets go of it soon.
        Journal(folder / JOURNAL, patience=10).close()
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"--jobs {jobs}: cannot be used: {error}") from error
    settings = Settings(
        models=models,
        folder=str(folder),
        device=str(choose_device(device)),
        makers=replicas,
        open_to_all=here,
        limits=Limits(queue=queue, per_minute=per_minute),
    )
    with serve_here(settings, host, port):
        print(f"serving {', '.join(settings.models)} at http://{host}:{port} (described at /docs); ends with Ctrl-C")
        wait_for_the_end()


def wait_for_the_end() -> None:
    """Until somebody interrupts or terminates the process."""
    import signal
    import threading

    over = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: over.set())
    over.wait()


def _named(models: list[str]) -> dict[str, str]:
    """ID=MODEL; without an id a model is called default, or by its place among several: model2."""
    found: dict[str, str] = {}
    for number, said in enumerate(models, start=1):
        name, _, folder = said.rpartition("=")
        name = name or ("default" if number == 1 else f"model{number}")
        if name in found:
            raise UserError(f"--model {said}: two models are called {name}")
        found[name] = folder
    return found

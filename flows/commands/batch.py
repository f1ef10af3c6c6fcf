"""The command that has many videos made by a service."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Json, say


def batch(
    endpoint: Annotated[str, typer.Option(metavar="URL", help="Where `emo serve` answers; its token is EMO_TOKEN.")],
    manifest: Annotated[
        Path,
        typer.Option(metavar="CSV|JSONL|PARQUET", help="A row for each video: portrait, audio; name, speed, seed…"),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or one of an earlier batch to go on with.")],
    at_a_time: Annotated[int, typer.Option(min=1, max=100, help="Jobs that the service has of us.")] = 8,
    as_json: Json = False,
) -> None:
    """Many videos by a service: DIR/NAME.mp4 and a table of results. Again does only what is missing."""
    import asyncio
    import os
    import sys

    from emo_core.serving.batch import Summary, batch
    from emo_core.serving.client import connect
    from emo_core.serving.manifest import read_manifest
    from emo_core.serving.results import Stopped
    from flows.progress import progress

    rows = read_manifest(manifest)

    async def work() -> Summary:
        async with connect(endpoint, os.environ.get("EMO_TOKEN")) as client:
            return await batch(client, rows, out, at_a_time, progress)

    try:
        found = asyncio.run(work())
    except Stopped as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    lines = [f"{found.done} videos in {out}"]
    lines += [f"{found.skipped} were done before"] if found.skipped else []
    lines += [f"{found.failed} failed; {found.results} says why"] if found.failed else []
    say(found.model_dump(), lines, as_json)
    if found.failed:
        raise typer.Exit(1)

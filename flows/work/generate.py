"""A job that has a manifest's videos made by a service."""

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

from emo_core.serving.batch import Summary, batch
from emo_core.serving.client import connect
from emo_core.serving.manifest import read_manifest
from emo_core.serving.results import Stopped
from flows.forms.generate import GenerateForm
from flows.forms.where import Where
from flows.told import Told
from flows.work.pictures import sheet


def work(given: dict[str, Any], where: Where, told: Told) -> dict[str, Any]:
    """See `flows.work.do`. Rows that failed are told in the table of results; if all did, so does the job."""
    form = GenerateForm.model_validate(given)
    rows = read_manifest(Path(form.manifest))

    async def send() -> Summary:
        async with connect(form.endpoint, os.environ.get("EMO_TOKEN")) as client:
            return await batch(client, rows, Path(form.out), form.at_a_time, told.phase)

    try:
        found = asyncio.run(send())
    except Stopped as error:
        raise RuntimeError(str(error)) from error
    told.count(done=found.done, failed=found.failed, **{"done before": found.skipped})
    video = Path(form.out) / f"{rows[0].name}.mp4"
    if video.exists():
        told.picture("preview", partial(sheet, video))
    if rows and found.failed == len(rows):
        raise RuntimeError(f"all {found.failed} rows failed; {found.results} says why")
    return found.model_dump()

"""What passes between a job and whoever watches it: files in a folder that both see, on a disk or in a store.

NOTES/open/ID.json      what was asked for; there while somebody must care about the job
NOTES/ID/progress.json  how far it is, with a beat that shows that it lives; in the way that it is shown
NOTES/ID/pictures/      charts and frames
NOTES/ID/result.json    how it ended, written last: this is the truth, not an exit code
"""

import json
import platform
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from emo_data.objects import Folder

Kind = Literal["ingest", "train", "evaluate", "generate", "proof"]
VARIABLE = "EMO_JOB"
"""Of the environment of a job: its Spec as JSON. No word of it reaches a shell."""


class Spec(BaseModel):
    """A job: what is to be done, who watches it, and by which programs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    kind: Kind
    form: dict[str, Any]
    where: dict[str, Any]
    flow_run: str | None
    """Of Prefect; None where a plain call watches."""
    versions: dict[str, str]


class Progress(BaseModel):
    """How far a job is. pictures: name -> how often it was drawn; pages: name -> Markdown."""

    beat: int = 0
    phase: str = "start"
    done: int = 0
    total: int = 0
    note: str = ""
    counts: dict[str, float] = {}
    pictures: dict[str, int] = {}
    pages: dict[str, str] = {}

    @property
    def mark(self) -> tuple[str, int, str, dict[str, float]]:
        """What changes when there is progress."""
        return self.phase, self.done, self.note, self.counts


class Result(BaseModel):
    """How a job ended. usage: the fault lies in what was asked for, so that trying again is in vain."""

    state: Literal["done", "failed", "stopped"]
    value: dict[str, Any] = {}
    error: str = ""
    usage: bool = False


class Notes:
    """A job's folder, see above."""

    def __init__(self, root: str, job: str) -> None:
        self.folder, self._root, self._job = Folder(root).below(job), Folder(root), job

    def open(self, spec: Spec) -> None:
        """Forget what an earlier try left; from now on somebody must care."""
        self.folder.delete(["progress.json", "result.json"])
        self.folder.remove("pictures")
        self._root.write(f"open/{self._job}.json", spec.model_dump_json().encode())

    def close(self) -> None:
        """The job is over, and somebody knows."""
        self._root.delete([f"open/{self._job}.json"])

    def progress(self) -> Progress | None:
        """None until the job has said something."""
        data = self._read("progress.json")
        return None if data is None else Progress.model_validate_json(data)

    def result(self) -> Result | None:
        """None until it has ended; and for ever, where it was killed."""
        data = self._read("result.json")
        return None if data is None else Result.model_validate_json(data)

    def picture(self, name: str) -> bytes | None:
        """A PNG."""
        return self._read(f"pictures/{name}.png")

    def _read(self, name: str) -> bytes | None:
        try:
            return self.folder.read(name)
        except FileNotFoundError:
            return None


def open_jobs(root: str) -> list[Spec]:
    """Jobs that nobody has seen end."""
    folder = Folder(root)
    found = []
    for name in folder.names("open"):
        try:
            found.append(Spec.model_validate_json(folder.read(name)))
        except FileNotFoundError:
            continue  # it has just been closed
    return found


def versions() -> dict[str, str]:
    """What must be the same on both sides."""
    return {
        "Python": platform.python_version().rpartition(".")[0],
        "ray": version("ray"),
        "open-emo": version("open-emo"),
    }


def as_json(content: BaseModel) -> bytes:
    """As it is written."""
    return json.dumps(content.model_dump(mode="json")).encode()

"""Kills the product's processes at chosen moments, without a line of it in the product; and compares what is left.

As in faults.py a `sitecustomize` wraps what a process uses: here the writes of objects, and the frames a child sees.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emo_data.film import encode_video
from emo_data.schema import CLIP_SCHEMA
from emo_data.store import Dataset
from emo_data.video import probe, read_pictures
from tests.emo_data.faults import FINDER

_SITE = """
import json, os, signal, sys

_PLAN = json.loads(os.environ["EMO_TEST_KILL"])
_ROLE = ("child" if "emo_data.ingest.child" in sys.orig_argv
         else "actor" if any("default_worker.py" in word for word in sys.orig_argv) else "driver")

def _die():
    try:  # once only, whatever is started again
        os.close(os.open(_PLAN["done"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

def _due(what, count=[0]):
    if _ROLE != _PLAN["role"] or not what.startswith(_PLAN["what"]):
        return False
    count[0] += 1
    return count[0] == _PLAN["nth"]

def _wrap_objects(module):

    def log(name):
        with open(_PLAN["log"], "a") as stream:
            stream.write(json.dumps([_ROLE, name]) + "\\n")

    def wrapped(honest):
        def write(self, name, data):
            log(name)
            due = _due(name)
            if due and _PLAN["when"] == "before":
                _die()
            if due and _PLAN["when"] == "half":
                os.replace = os.link = lambda *paths: _die()
                if self.local:
                    honest(self, name, data[: len(data) // 2])
                _die()
            answer = honest(self, name, data)
            if due and _PLAN["when"] == "after":
                _die()
            return answer

        return write

    module.Folder.write = wrapped(module.Folder.write)
    module.Folder.create = wrapped(module.Folder.create)

def _wrap_watch(module):
    honest = module.scan

    def scan(info, grid, decoder, share, before, forget, beat):
        seen = [0]

        def counted():
            beat()
            seen[0] += 1
            if seen[0] == 30 and _due("scan"):
                _die()

        return honest(info, grid, decoder, share, before, forget, counted)

    module.scan = scan

_WRAPS = {"emo_data.objects": _wrap_objects, "emo_data.ingest.watch": _wrap_watch}
"""


@dataclass(frozen=True)
class Kill:
    """SIGKILL of the driver, an actor or a child before, halfway through or after its nth write of a kind."""

    role: str
    what: str
    nth: int = 1
    when: str = "before"


NOBODY = Kill("nobody", "")
OPTIONS = ["--size", "64", "--audio-model", "tiny", "--min-seconds", "1", "--max-seconds", "2", "--chunk-seconds", "8"]


def make_sources(clips: list[Path], folder: Path) -> Path:
    """Two clips, a film of two chunks, a copy, and a file that is no video."""
    folder.mkdir()
    for number, clip in enumerate(clips[:2]):
        (folder / f"{number}.mp4").write_bytes(clip.read_bytes())
    (folder / "copy.mp4").write_bytes(clips[0].read_bytes())
    (folder / "broken.mp4").write_text("this is no video")
    info = probe(clips[2])
    pictures = [np.array(picture) for picture in read_pictures(info, np.arange(100), "pyav")]
    encode_video(folder / "film.mp4", [*pictures, *pictures[::-1], *pictures], 25)
    return folder


def watched_writes(folder: Path, kill: Kill) -> dict[str, str]:
    """What to put into the environment of a process, so that it logs its writes to writes.log and dies as planned."""
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    (site / "sitecustomize.py").write_text(_SITE + FINDER)
    plan = {**vars(kill), "done": str(folder / f"done-{hash(kill) & 0xFFFFFF:06x}"), "log": str(folder / "writes.log")}
    return {"PYTHONPATH": str(site), "EMO_TEST_KILL": json.dumps(plan)}


def run_ingest(sources: list[str], out: str, folder: Path, kill: Kill, workers: int) -> int:
    """`emo ingest` in a process of its own; its exit code."""
    code = "from flows.cli import main; main()"
    command = [sys.executable, "-c", code, "ingest", *sources, "--out", out, *OPTIONS, "--workers", str(workers)]
    environment = {**os.environ, **watched_writes(folder, kill)}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=600, check=False
    )
    if done.returncode not in (0, -9):
        raise AssertionError(done.stderr.decode()[-3000:])
    return done.returncode


def writes(folder: Path) -> list[tuple[str, str]]:
    """Role and name of each write so far."""
    return [tuple(json.loads(line)) for line in (folder / "writes.log").read_text().splitlines()]


def content(url: str) -> dict[str, object]:
    """All that a reader sees, in an order that depends on nothing but itself; and all objects that lie there."""
    dataset = Dataset.open(url)
    assert dataset.verify() == []
    places, _ = dataset.clips(["clip_id"])
    rows = [dataset.read_clip(place, CLIP_SCHEMA.names) for place in places]
    kinds = ("clips", "summaries", "rejections", "commits")
    return {
        "clips": sorted((row["clip_id"], _digest(row)) for row in rows),
        "rejections": sorted(_digest(row) for row in dataset.rejections().to_pylist()),
        "objects": sorted(name for kind in kinds for name in dataset.folder.names(kind)),
        "work": dataset.folder.names("work/chunks") + dataset.folder.names("work/lease"),
    }


def _digest(row: dict[str, object]) -> str:
    values = {
        name: value.tobytes().hex() if isinstance(value, np.ndarray) else repr(value) for name, value in row.items()
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

"""`emo serve` as a person starts it, and what is done to it: bursts, nonsense, kills."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from emo_core.inference.generate import Request, generate, load_pipeline
from emo_core.inference.sampling import Sampling
from emo_data.schema import SAMPLE_RATE
from emo_data.sound import read_sound, write_sound
from tests.emo_core.runs import CPU

QUICK = {"steps": "1", "guidance": "1"}


class Served:
    """A service on a free port."""

    def __init__(self, model: str, jobs: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-c", "from flows.cli import main; main()", "serve", "--model", model]
        self.process = psutil.Popen(
            [*command, "--port", str(self.port), "--jobs", str(jobs), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.url, self.jobs = f"http://127.0.0.1:{self.port}", jobs
        self.client = httpx.Client(base_url=self.url, timeout=60)
        self.wait(lambda: self.client.get("/readyz").status_code == 200, 120)

    def wait(self, done, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if done():
                    return
            except httpx.HTTPStatusError as error:
                assert error.response.status_code == 503, error.response.text
            except (httpx.TransportError, ValueError):
                assert self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE, "the service ended"
            time.sleep(0.1)
        raise AssertionError("it did not come to be")

    def state(self, job: str) -> dict:
        answer = self.client.get(f"/v1/jobs/{job}")
        answer.raise_for_status()
        return answer.json()

    def log(self) -> list[dict]:
        """What it says that it did."""
        return [json.loads(line) for line in (self.jobs / "log.jsonl").read_text().splitlines()]

    def memory(self) -> float:
        """MiB of the process that answers."""
        (front,) = [each for each in self.process.children(recursive=True) if ":front" in " ".join(_line(each))]
        return front.memory_info().rss / 2**20

    def kill(self, name: str) -> None:
        """The replicas of a deployment, as soon as there are any."""

        def found() -> list[psutil.Process]:
            return [each for each in self.process.children(recursive=True) if f":{name}" in " ".join(_line(each))]

        self.wait(found, 60)
        for each in found():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()

    def die(self) -> None:
        """All of it, at once."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [self.process, *self.process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):  # it went with another
                    each.kill()
        self.process.wait(30)

    def end(self) -> list[psutil.Process]:
        """As Ctrl-C ends it; what is left of it after a while."""
        family = self.process.children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0
        return psutil.wait_procs(family, timeout=20)[1]


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def inputs(folder: Path) -> dict[str, tuple[str, bytes]]:
    """A request's two files."""
    return {
        name: (name, (folder / file).read_bytes())
        for name, file in (("portrait", "portrait.png"), ("audio", "voice.wav"))
    }


def short(files: dict[str, tuple[str, bytes]], folder: Path) -> dict[str, tuple[str, bytes]]:
    """With the first 0.4 s of the voice: of many jobs the number counts."""
    whole, cut = folder / "whole.wav", folder / "cut.wav"
    whole.write_bytes(files["audio"][1])
    write_sound(cut, read_sound(whole)[: 4 * SAMPLE_RATE // 10])
    return files | {"audio": ("audio", cut.read_bytes())}


def undisturbed(folder: Path, out: Path, steps: int, seed: int) -> bytes:
    """The mp4 that a job with guidance 1 becomes where nothing happens to it."""
    loaded = load_pipeline(folder / "model", CPU)
    sampling = Sampling(steps, 1, 1, seed, "dpm++")
    generate(loaded, Request(folder / "portrait.png", folder / "voice.wav", out, sampling=sampling))
    return out.read_bytes()


def burst(served: Served, files: dict, count: int, name: str = "burst") -> tuple[Counter, list[str]]:
    """So many jobs at once; whoever is refused asks again when it may: (first answers, ids of all jobs)."""

    async def one(client: httpx.AsyncClient, number: int, first: Counter) -> str:
        head, asked = {"Idempotency-Key": f"{name} {number}"}, 0
        while True:
            answer = await client.post("/v1/jobs", files=files, data=QUICK | {"seed": str(number)}, headers=head)
            first[answer.status_code] += not asked
            asked += 1
            if answer.status_code == 202:
                return answer.json()["id"]
            assert answer.status_code == 429, answer.text
            await asyncio.sleep(float(answer.headers["Retry-After"]))

    async def all_of_them() -> tuple[Counter, list[str]]:
        first: Counter = Counter()
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=served.url, timeout=600, limits=limits) as client:
            return first, await asyncio.gather(*(one(client, number, first) for number in range(count)))

    return asyncio.run(all_of_them())


def nothing_is_lost_or_made_twice(served: Served, jobs: list[str]) -> None:
    """Every job of a burst is done, and was accepted, begun and ended once."""
    assert len(set(jobs)) == len(jobs)

    def told() -> Counter:
        return Counter((line["event"], line["job"]) for line in served.log() if "job" in line)

    # By its log: hundreds of questions would take the time that the videos need.
    served.wait(lambda: all(told()["done", job] for job in jobs), 120 + 5 * len(jobs))
    assert {served.state(job)["state"] for job in jobs} == {"done"}
    found = told()
    for job in jobs:
        assert [found[event, job] for event in ("accepted", "begun", "done")] == [1, 1, 1]

"""What the service costs: videos through it against the same videos from the pipeline itself, in the same run, and how
long clients wait."""

import asyncio
import json
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from emo_core.bench.subject import calm, from_files
from emo_core.inference.generate import load_pipeline
from emo_core.measure.clock import device_name, seconds
from emo_core.serving.on_ray import Settings, serve_here
from emo_core.serving.service import Limits
from emo_core.serving.wish import Wish
from emo_data.schema import FPS
from emo_data.sound import read_sound, write_sound
from emo_data.synthetic import synthesise_voice, write_trial

CLIENTS = (1, 4, 16)
"""Each asks for its next video when it has its last."""
LOADS = (0.5, 0.9, 1.5)
"""Of what the service can: videos that are asked for at moments of their own, whatever became of the ones before."""
_LOOK = 0.25
"""Seconds between two questions for a job's state, of whoever measures how soon they are answered."""


class Load(BaseModel):
    """What was asked of the service, and what it did."""

    model_config = ConfigDict(extra="forbid")

    name: str
    videos: int
    refused: int = Field(description="answered with 429; an open load does not ask again")
    frames_per_second: float = Field(description="of finished videos, from the first question to the last end")
    throughput_over_bare: float
    latency_p50: float = Field(description="seconds from a video's question to its end; so the next")
    latency_p95: float
    status_p99_ms: float = Field(description="of questions for a job's state while all this goes on")


class ServingFigures(BaseModel):
    """All figures of `emo bench serve`."""

    model_config = ConfigDict(extra="forbid")

    device: str
    torch: str
    sound_seconds: float
    makers: int
    steps: int
    bare_frames_per_second: float = Field(description="the pipeline called directly, nothing written; mean of 2 times")
    throughput_over_bare: float = Field(description="at saturation: the best of the loads")
    status_p99_ms: float = Field(description="the worst of the loads")
    loads: list[Load]


@dataclass
class _Seen:
    """By one load."""

    latencies: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    refused: int = 0


def bench_serving(
    model: str,
    sound_seconds: float,
    videos: int,
    makers: int,
    device: torch.device,
    on_progress: Callable[[int, int], None],
) -> ServingFigures:
    """videos: of each load, at least one of each client. makers: of the service."""
    wish = Wish()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_trial(place)
        write_sound(place / "voice.wav", synthesise_voice([0, 9], sound_seconds))
        frames = round(sound_seconds * FPS)
        total = len(CLIENTS) + len(LOADS) + 2
        bare = [_bare(model, place, wish, device)]
        on_progress(1, total)
        settings = Settings(
            models={"subject": model},
            folder=str(place / "service"),
            device=str(device),
            makers=makers,
            open_to_all=True,
            limits=Limits(queue=max(CLIENTS), per_minute=100_000),
        )
        loads: list[tuple[str, _Seen, float]] = []

        def done(name: str, seen: _Seen, took: float) -> None:
            loads.append((name, seen, took))
            on_progress(1 + len(loads), total)

        with serve_here(settings, "127.0.0.1", port := _free_port()):
            asyncio.run(_all_loads(f"http://127.0.0.1:{port}", place, wish, videos, done))
        bare.append(_bare(model, place, wish, device))
        on_progress(total, total)
    rate = frames * len(bare) / sum(bare)
    found = [
        Load(
            name=name,
            videos=len(seen.latencies),
            refused=seen.refused,
            frames_per_second=len(seen.latencies) * frames / took,
            throughput_over_bare=len(seen.latencies) * frames / took / rate,
            latency_p50=float(np.percentile(seen.latencies, 50)),
            latency_p95=float(np.percentile(seen.latencies, 95)),
            status_p99_ms=1000 * float(np.percentile(seen.looks, 99)),
        )
        for name, seen, took in loads
    ]
    return ServingFigures(
        device=device_name(device),
        torch=torch.__version__,
        sound_seconds=sound_seconds,
        makers=makers,
        steps=wish.steps,
        bare_frames_per_second=rate,
        throughput_over_bare=max(load.throughput_over_bare for load in found),
        status_p99_ms=max(load.status_p99_ms for load in found),
        loads=found,
    )


def _bare(model: str, place: Path, wish: Wish, device: torch.device) -> float:
    """Seconds of one video, warm: from the picture and the sound in memory to its frames in memory."""
    pipeline = load_pipeline(model, device).pipeline
    sound = read_sound(place / "voice.wav")
    portrait, _ = from_files(pipeline, place / "portrait.png", sound)

    def once() -> None:
        drive = calm(pipeline, sound)  # a new one, for it remembers what it has heard
        for _ in pipeline.stream(portrait, drive, wish.sampling):
            pass

    once()
    return float(np.mean([seconds(once, device) for _ in range(3)]))


async def _all_loads(url: str, place: Path, wish: Wish, videos: int, done: Callable[[str, _Seen, float], None]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        files = {"portrait": (place / "portrait.png").read_bytes(), "audio": (place / "voice.wav").read_bytes()}

        async def video(seen: _Seen) -> None:
            await _video(client, files, wish, seen)

        await video(_Seen())  # whatever is slow once
        best = 0.0
        for clients in CLIENTS:
            count = max(videos, clients)
            seen, took = await _observed(client, files, wish, partial(_closed, video, clients, count))
            done(f"{clients} clients", seen, took)
            best = max(best, len(seen.latencies) / took)
        for load in LOADS:
            gaps = np.random.default_rng(0).exponential(1 / (load * best), videos)
            seen, took = await _observed(client, files, wish, partial(_open, video, gaps))
            done(f"{load:g} x that, open", seen, took)


async def _observed(
    client: httpx.AsyncClient, files: dict[str, bytes], wish: Wish, load: Callable[[_Seen], Awaitable[None]]
) -> tuple[_Seen, float]:
    """What a load saw, and its seconds; meanwhile somebody asks for a job's state all the time."""
    seen = _Seen()
    job = await _submit(client, files, wish, seen)
    assert job is not None  # nothing else is going on yet
    await _until_over(client, job)

    async def look() -> None:
        while True:
            start = time.perf_counter()
            (await client.get(f"/v1/jobs/{job}")).raise_for_status()
            seen.looks.append(time.perf_counter() - start)
            await asyncio.sleep(_LOOK)

    looking = asyncio.create_task(look())
    start = time.perf_counter()
    await load(seen)
    took = time.perf_counter() - start
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    return seen, took


async def _closed(video: Callable[[_Seen], Awaitable[None]], clients: int, count: int, seen: _Seen) -> None:
    waiting = iter(range(count))

    async def client() -> None:
        for _ in waiting:
            await video(seen)

    await asyncio.gather(*(client() for _ in range(clients)))


async def _open(video: Callable[[_Seen], Coroutine[Any, Any, None]], gaps: np.ndarray, seen: _Seen) -> None:
    async with asyncio.TaskGroup() as group:
        for gap in gaps:
            group.create_task(video(seen))
            await asyncio.sleep(gap)


async def _video(client: httpx.AsyncClient, files: dict[str, bytes], wish: Wish, seen: _Seen) -> None:
    start = time.perf_counter()
    job = await _submit(client, files, wish, seen)
    if job is not None:
        await _until_over(client, job)
        seen.latencies.append(time.perf_counter() - start)


async def _submit(client: httpx.AsyncClient, files: dict[str, bytes], wish: Wish, seen: _Seen) -> str | None:
    """The job; None where it was refused."""
    told = {name: str(value) for name, value in wish.model_dump(exclude_unset=True).items()}
    answer = await client.post("/v1/jobs", files=files, data=told)
    if answer.status_code == 429:
        seen.refused += 1
        return None
    answer.raise_for_status()
    return str(answer.json()["id"])


async def _until_over(client: httpx.AsyncClient, job: str) -> None:
    """As a client waits that costs little: the service tells what is new."""
    state = None
    async with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                state = json.loads(line.removeprefix("data: "))
    if state is None or state["state"] != "done":
        raise RuntimeError(f"a job of the measurement ended as {state}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

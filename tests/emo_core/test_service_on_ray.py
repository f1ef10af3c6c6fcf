"""`emo serve` as a person starts it: a real Ray Serve, whose processes are killed while they work."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from emo_core.serving import on_ray
from emo_core.serving.wish import Wish
from flows.cli import run
from tests.emo_core.served import QUICK, Served, burst, inputs, nothing_is_lost_or_made_twice, short, undisturbed


@pytest.fixture
def files(model_folder):
    return inputs(model_folder)


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    served = Served(str(model_folder / "model"), tmp_path_factory.mktemp("served"), "--queue", "8")
    yield served
    assert served.end() == []


def test_a_maker_and_the_front_are_killed_and_every_accepted_job_becomes_its_video(
    served, model_folder, files, tmp_path
):
    """And what is cancelled makes room at once. All of Ray is killed in the long tests."""
    wish = {"steps": "25", "guidance": "1"}
    jobs = [
        served.client.post("/v1/jobs", files=files, data=wish | {"seed": str(seed)}).json()["id"] for seed in range(3)
    ]
    served.wait(lambda: served.state(jobs[0])["state"] == "running", 60)
    served.kill("makers")
    served.wait(lambda: served.state(jobs[0])["state"] in ("running", "done"), 60)
    served.kill("front")
    served.wait(lambda: served.state(jobs[1])["state"] in ("running", "done"), 120)
    assert served.client.delete(f"/v1/jobs/{jobs[2]}").json()["state"] in ("cancelled", "done")
    served.wait(lambda: all(served.state(job)["state"] == "done" for job in jobs[:2]), 120)
    for seed, job in enumerate(jobs[:2]):
        video = served.client.get(f"/v1/jobs/{job}/video").content
        assert video == undisturbed(model_folder, tmp_path / f"{seed}.mp4", 25, seed)


def test_of_a_burst_nothing_is_lost_and_nothing_made_twice(served, files, tmp_path):
    first, jobs = burst(served, short(files, tmp_path), 40)
    assert first[202] >= 8 and first[202] + first[429] == 40
    nothing_is_lost_or_made_twice(served, jobs)


def test_its_state_is_told_while_all_cores_work(served, files):
    """A slow answer is somebody's fault; that there is one, and that what it says moves on, is to be tested."""
    job = served.client.post("/v1/jobs", files=files, data={"steps": "30"}).json()["id"]
    took, told = [], [0]
    while told[-1] < 50:
        start = time.perf_counter()
        told.append(served.state(job)["frames_done"])
        took.append(time.perf_counter() - start)
        time.sleep(0.02)
    print(f"p99 of {len(took)} questions: {1000 * np.percentile(took, 99):.0f} ms")
    assert told == sorted(told) and len(set(told)) > 2


def test_who_goes_away_costs_nothing_further(served, files):
    """A hung-up request for a short video, and a cancelled job: the next one is begun at once."""

    def told(event: str) -> set[str]:
        return {line["job"] for line in served.log() if line["event"] == event}

    begun, cancelled = told("begun"), told("cancelled")

    async def hang_up():
        async with httpx.AsyncClient(base_url=served.url, timeout=600) as client:
            asked = asyncio.create_task(client.post("/v1/videos", files=files, data={"steps": "100"}))
            while told("begun") == begun:
                await asyncio.sleep(0.05)
            asked.cancel()

    asyncio.run(hang_up())
    waiting = served.client.post("/v1/jobs", files=files, data={"steps": "100"}).json()["id"]
    served.wait(lambda: served.state(waiting)["state"] == "running", 30)
    (gone,) = told("cancelled") - cancelled
    assert served.state(gone)["state"] == "cancelled"
    next_one = served.client.post("/v1/jobs", files=files, data=QUICK).json()["id"]
    start = time.perf_counter()
    served.client.delete(f"/v1/jobs/{waiting}")
    served.wait(lambda: served.state(next_one)["state"] in ("running", "done"), 30)
    print(f"a cancelled job's maker went on with the next after {time.perf_counter() - start:.2f} s")
    served.wait(lambda: served.state(next_one)["state"] == "done", 30)
    assert served.state(waiting)["state"] == "cancelled"


def test_it_can_be_watched_over_http(served, files):
    job = served.client.post("/v1/jobs", files=files, data={"steps": "20"}).json()["id"]
    states, seen = [], b""
    with served.client.stream("GET", f"/v1/jobs/{job}/stream") as answer:
        for piece in answer.iter_raw():
            seen += piece
            states.append(served.state(job)["state"])
    assert "running" in states and seen[4:8] == b"ftyp" and seen.count(b"moof") >= 50


def test_the_portrait_of_another_is_looked_at_again(served, files):
    """Whose file ended the inspector is not known; what was in it beside that is not refused."""
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(served.client.post, "/v1/portraits", files={"portrait": files["portrait"]}) for _ in "12345678"
        ]
        served.wait(lambda: list((served.jobs / "jobs").glob("*/portrait")), 30)
        served.kill("inspector")
        assert [each.result().status_code for each in asked] == [200] * 8


def test_an_inspector_that_does_not_come_back_is_not_well(model_folder, files, tmp_path, monkeypatch):
    caught = threading.Event()
    monkeypatch.setattr(on_ray, "look", lambda *_: caught.wait())
    monkeypatch.setattr(on_ray, "_TOO_LONG", 0.2)

    async def work():
        inspector = on_ray.Inspector({"small": str(model_folder / "model")})
        inspector.check_health()
        asked = asyncio.create_task(inspector.look(str(tmp_path), Wish()))
        await asyncio.sleep(0.1)
        asked.cancel()  # who asked went away, which does not free the inspector
        await asyncio.sleep(0.4)
        with pytest.raises(TimeoutError):
            inspector.check_health()
        caught.set()
        async with asyncio.timeout(10):
            while inspector._since:
                await asyncio.sleep(0.05)
        inspector.check_health()

    asyncio.run(work())


def test_a_folder_that_another_service_has_is_refused(served, model_folder, capfd):
    assert run(["serve", "--model", str(model_folder / "model"), "--jobs", str(served.jobs)]) == 2
    assert f"{served.jobs}: another service" in capfd.readouterr().err


def test_another_host_needs_a_token(model_folder, capfd, monkeypatch):
    monkeypatch.delenv("EMO_TOKEN", raising=False)
    assert run(["serve", "--model", str(model_folder / "model"), "--host", "0.0.0.0"]) == 2
    assert "set EMO_TOKEN" in capfd.readouterr().err

"""The service over HTTP with its work done in this process: real portraits, sounds, models and videos, no cluster."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import torch

from emo_core.serving.api import create_app
from emo_core.serving.inspector import Models, inspect
from emo_core.serving.maker import Maker, Stopped
from emo_core.serving.service import Limits, Lost, Service
from emo_data.video import probe
from tests.emo_core.runs import CPU

LIMITS = Limits(queue=3, sound_seconds=4, short_seconds=3, portrait_bytes=2**20, sound_bytes=2**20)
QUICK = {"steps": "1", "guidance": "1"}


class Here:
    """`Hands` of this process: one at a time, on a thread."""

    def __init__(self, models: dict[str, str]) -> None:
        self.models, self.maker = Models.read(models), Maker(models, CPU)
        self.made: list[str] = []
        self.deaths, self.hold = 0, threading.Event()
        self.hold.set()
        self._turn = asyncio.Semaphore(1)

    async def inspect(self, folder: Path, wish, max_seconds: float) -> int:
        return await asyncio.to_thread(inspect, folder, wish, self.models.named(wish.model)[1], max_seconds)

    async def make(self, folder: Path, wish) -> AsyncIterator[float]:
        async with self._turn:
            stop, shares = threading.Event(), []

            def tell(share: float) -> None:
                shares.append(share)
                self.hold.wait()
                if self.deaths and share > 0.4:
                    self.deaths -= 1
                    raise Stopped

            work = asyncio.create_task(asyncio.to_thread(self.maker.make, folder, wish, tell, stop))
            try:
                while not work.done():
                    yield shares[-1] if shares else 0.0
                    await asyncio.wait([work], timeout=0.02)
                try:
                    work.result()
                except Stopped as error:
                    raise Lost from error
                self.made.append(folder.name)
            finally:
                stop.set()
                await asyncio.wait([work])


@pytest.fixture
def models(model_folder):
    return {"small": str(model_folder / "model")}


@pytest.fixture
def files(model_folder):
    portrait, voice = (model_folder / name for name in ("portrait.png", "voice.wav"))
    return {"portrait": ("me.png", portrait.read_bytes()), "audio": ("voice.wav", voice.read_bytes())}


@asynccontextmanager
async def serving(folder: Path, models, hands=None, limits=LIMITS, token=None):
    hands = hands or Here(models)
    service = Service(folder, Models.read(models), hands, limits)
    transport = httpx.ASGITransport(create_app(service, token))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=120) as client:
            yield client, service, hands
    finally:
        hands.hold.set()
        await service.close()


async def over(client, job: str) -> dict:
    async with asyncio.timeout(120):
        while True:
            found = (await client.get(f"/v1/jobs/{job}")).json()
            if found["state"] not in ("queued", "running"):
                return found
            await asyncio.sleep(0.05)


def run(work):
    torch.set_num_threads(1)
    return asyncio.run(work)


def test_a_job_from_its_upload_to_its_video(models, files, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, hands):
            answer = await client.post("/v1/jobs", files=files, data=QUICK | {"seed": "4"})
            assert answer.status_code == 202, answer.text
            job = answer.json()["id"]
            assert answer.json() == {
                "id": job, "state": "queued", "progress": 0, "frames_done": 0, "frames_total": 50, "error": None,
            }  # fmt: skip
            early = await client.get(f"/v1/jobs/{job}/video")
            assert early.status_code == 409
            events = await client.get(f"/v1/jobs/{job}/events")
            told = [json.loads(line.removeprefix("data: ")) for line in events.text.split("\n\n") if "data" in line]
            assert told[-1]["state"] == "done" and told[-1]["progress"] == 1
            assert [one["frames_done"] for one in told] == sorted(one["frames_done"] for one in told)
            video = await client.get(f"/v1/jobs/{job}/video")
            assert video.headers["content-type"] == "video/mp4"
            (tmp_path / "got.mp4").write_bytes(video.content)
            assert len(probe(tmp_path / "got.mp4").pts) == 50
            sidecar = json.loads((tmp_path / "jobs" / job / "video.json").read_text())
            assert sidecar["seed"] == 4 and sidecar["steps"] == 1 and hands.made == [job]
            assert (await client.get("/v1/models")).json()[0]["id"] == "small"
            assert (await client.delete(f"/v1/jobs/{job}")).json()["state"] == "done"

    run(work())


def test_a_short_sound_is_waited_for(models, files, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, _):
            answer = await client.post("/v1/videos", files=files, data=QUICK)
            assert answer.status_code == 200 and answer.content[4:8] == b"ftyp"
        async with serving(tmp_path, models, limits=LIMITS.model_copy(update={"short_seconds": 1})) as (client, _, _):
            answer = await client.post("/v1/videos", files=files, data=QUICK)
            assert answer.status_code == 413 and "longer than 1 s" in answer.json()["detail"]

    run(work())


def test_a_key_is_one_job(models, files, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, hands):
            head = {"Idempotency-Key": "k"}
            answers = await asyncio.gather(
                *(client.post("/v1/jobs", files=files, data=QUICK, headers=head) for _ in range(3))
            )
            (job,) = {answer.json()["id"] for answer in answers}
            await over(client, job)
            assert (await client.post("/v1/jobs", files=files, data=QUICK, headers=head)).json()["state"] == "done"
            other = await client.post("/v1/jobs", files=files, data=QUICK | {"seed": "1"}, headers=head)
            assert other.status_code == 422 and "Idempotency-Key" in other.json()["detail"]
            assert hands.made == [job] and [path.name for path in (tmp_path / "jobs").iterdir()] == [job]

    run(work())


def test_full_is_said_at_once_and_passes(models, files, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, hands):
            hands.hold.clear()
            answers = [await client.post("/v1/jobs", files=files, data=QUICK) for _ in range(5)]
            assert [answer.status_code for answer in answers] == [202, 202, 202, 429, 429]
            assert int(answers[3].headers["Retry-After"]) > 0
            assert len(list((tmp_path / "jobs").iterdir())) == 3
            hands.hold.set()
            for answer in answers[:3]:
                assert (await over(client, answer.json()["id"]))["state"] == "done"
            assert (await client.post("/v1/jobs", files=files, data=QUICK)).status_code == 202

    run(work())


def test_cancelled_jobs_end_at_once_and_let_the_next_one_in(models, files, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, hands):
            hands.hold.clear()
            first, second, third = [
                (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"] for _ in range(3)
            ]
            await asyncio.sleep(0.2)
            for job in (first, second):
                assert (await client.delete(f"/v1/jobs/{job}")).json()["state"] == "cancelled"
            hands.hold.set()
            assert (await over(client, third))["state"] == "done"
            assert hands.made == [third] and (await client.get(f"/v1/jobs/{first}")).json()["state"] == "cancelled"
            assert (await client.get(f"/v1/jobs/{first}/video")).status_code == 409

    run(work())


def test_a_maker_that_dies_is_followed_by_another(models, files, tmp_path):
    """Which goes on, and makes the video that an undisturbed one makes."""

    async def work():
        async with serving(tmp_path / "a", models) as (client, _, hands):
            hands.deaths = 2
            job = (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"]
            assert (await over(client, job))["state"] == "done" and hands.deaths == 0
            disturbed = (await client.get(f"/v1/jobs/{job}/video")).content
        async with serving(tmp_path / "b", models) as (client, _, hands):
            assert (await client.post("/v1/videos", files=files, data=QUICK)).content == disturbed
            hands.deaths = 100
            job = (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"]
            failed = await over(client, job)
            assert failed["state"] == "failed" and "died" in failed["error"]

    run(work())


def test_a_service_that_dies_goes_on_with_every_job(models, files, tmp_path):
    async def work():
        hands = Here(models)
        async with serving(tmp_path, models, hands) as (client, _, _):
            hands.hold.clear()
            jobs = [(await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"] for _ in range(3)]
            (tmp_path / "jobs" / "half").mkdir()  # of a request that was never accepted
            threading.Timer(0.3, hands.hold.set).start()
        async with serving(tmp_path, models) as (client, _, again):
            assert not (tmp_path / "jobs" / "half").exists()
            for job in jobs:
                assert (await over(client, job))["state"] == "done"
            assert sorted(hands.made + again.made) == sorted(jobs)

    run(work())


def test_results_are_kept_for_their_time(models, files, tmp_path):
    async def work():
        limits = LIMITS.model_copy(update={"keep_seconds": 0.5})
        async with serving(tmp_path, models, limits=limits) as (client, _, _):
            job = (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"]
            await over(client, job)
            await asyncio.sleep(1.5)
            assert (await client.get(f"/v1/jobs/{job}")).status_code == 404
            assert not list((tmp_path / "jobs").iterdir())

    run(work())


def test_who_has_no_token_gets_nothing(models, files, tmp_path):
    async def work():
        async with serving(tmp_path, models, token="secret") as (client, _, _):
            for head in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic secret"}):
                for path in ("/v1/models", "/v1/jobs/x", "/v1/jobs/x/video", "/v1/jobs/x/events"):
                    assert (await client.get(path, headers=head)).status_code == 401
                assert (await client.post("/v1/jobs", files=files, headers=head)).status_code == 401
            head = {"Authorization": "Bearer secret"}
            assert (await client.get("/v1/models", headers=head)).status_code == 200
            assert (await client.get("/v1/jobs/x", headers=head)).status_code == 404

    run(work())


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"portrait": b""}, 422, "portrait: the file is empty"),
        ({"portrait": b"no picture"}, 415, "portrait: cannot be read as a picture"),
        ({"audio": b"no sound"}, 422, "audio: cannot be used as sound"),
        ({"audio": bytes(2**20 + 1)}, 413, "audio: it has more than 1,048,576 bytes"),
        ({"audio": bytes(5 * 2**20)}, 413, "the most that is taken"),
        ({"audio": None}, 422, "audio: Field required"),
        ({"speed": "/etc/passwd"}, 422, "speed: give degrees per frame"),
        ({"steps": "many"}, 422, "steps: "),
        ({"model": "gpt"}, 422, "model: there is no 'gpt'"),
        ({"out": "/tmp/x"}, 422, "out: Extra inputs are not permitted"),
        ({"face": "2"}, 422, "face 2: portrait shows 1"),
    ],
)
def test_what_is_wrong_is_said(models, files, tmp_path, change, status, said):
    async def work():
        async with serving(tmp_path, models) as (client, _, _):
            sent = {name: change.get(name, content[1]) for name, content in files.items()}
            answer = await client.post(
                "/v1/jobs",
                files={name: ("x", content) for name, content in sent.items() if content is not None},
                data=QUICK | {name: value for name, value in change.items() if name not in files},
            )
            assert answer.status_code == status, answer.text
            assert said in answer.json()["detail"] and str(tmp_path) not in answer.text
            assert not list((tmp_path / "jobs").iterdir())

    run(work())

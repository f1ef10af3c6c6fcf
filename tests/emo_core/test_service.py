"""The service over HTTP with its work done in this process: real portraits, sounds, models and videos, no cluster."""

import asyncio
import io
import json
import re
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from emo_core.serving import gate as gate_module
from emo_core.serving import service as service_module
from emo_core.serving.api import create_app
from emo_core.serving.inspector import Models, inspect, look
from emo_core.serving.log import log_to
from emo_core.serving.maker import Maker, Stopped
from emo_core.serving.service import Limits, Lost, Service
from emo_data.sound import film_sound
from emo_data.synthetic import write_trial
from emo_data.video import probe, read_pictures
from tests.emo_core.conftest import psnr
from tests.emo_core.runs import CPU

LIMITS = Limits(free_bytes=0, queue=3, sound_seconds=4, short_seconds=3, portrait_bytes=2**20, sound_bytes=2**20)
QUICK = {"steps": "1", "guidance": "1"}


class Here:
    """`Hands` of this process, each job on a thread."""

    def __init__(self, models: dict[str, str], at_a_time: int = 1) -> None:
        self.models, self.maker = Models.read(models), Maker(models, CPU, at_a_time)
        self.made: list[str] = []
        self.deaths, self.hold = 0, threading.Event()
        self.hold.set()
        self._turn = asyncio.Semaphore(at_a_time)

    async def inspect(self, folder: Path, wish, max_seconds: float) -> int:
        return await asyncio.to_thread(inspect, folder, wish, self.models.named(wish.model)[1], max_seconds)

    async def look(self, folder: Path, wish):
        return await asyncio.to_thread(look, folder, wish, self.models.named(wish.model)[1])

    async def draw_samples(self, folder: Path) -> None:
        await asyncio.to_thread(write_trial, folder)

    async def ready(self) -> bool:
        return self.hold.is_set()

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
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
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


def test_it_can_be_watched_while_it_is_made(models, files, tmp_path):
    """Whoever carries it on after a death included; the pictures are those of the result."""

    async def work():
        async with serving(tmp_path, models) as (client, service, hands):
            hands.deaths = 2
            job = (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"]
            seen, early = b"", None
            async for piece in service.watch(job):
                if early is None and service.get(job).state == "running":
                    early = len(piece)
                seen += piece
            assert early and (await over(client, job))["state"] == "done"
            (tmp_path / "seen.mp4").write_bytes(seen)
            (tmp_path / "got.mp4").write_bytes((await client.get(f"/v1/jobs/{job}/video")).content)
            assert np.array_equal(pictures(tmp_path / "seen.mp4"), pictures(tmp_path / "got.mp4"))
            assert [len(film_blocks(tmp_path / name)) for name in ("seen.mp4", "got.mp4")] == [96_000] * 2
            late = await client.get(f"/v1/jobs/{job}/stream")
            assert late.content == (tmp_path / "got.mp4").read_bytes()
            assert not list((tmp_path / "jobs" / job).glob("premiere*"))
            assert (await client.get("/v1/jobs/x/stream")).status_code == 404

    run(work())


def pictures(path: Path) -> np.ndarray:
    return np.stack(list(read_pictures(probe(path), np.arange(50), "pyav")))


def film_blocks(path: Path) -> np.ndarray:
    """Its sound, (samples, 2), as far as its pictures go."""
    return np.concatenate([block.T for block in film_sound(path, 2)])


def test_a_portrait_is_looked_at(models, files, two_faces, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, _):
            portrait = {"portrait": files["portrait"]}
            found = (await client.post("/v1/portraits", files=portrait)).json()
            x0, y0, x1, y1 = found["face"]
            assert found["faces"] == 1 and 0 < x0 < x1 < 1 and 0 < y0 < y1 < 1
            assert found["region"][0] <= x0 and found["region"][3] >= y1 - 1 / 32
            assert found["picture"].startswith("data:image/jpeg;base64,/9j/")
            drawn = (await client.post("/v1/portraits", files=portrait, data={"region": "0.25,0.25,0.75,1"})).json()
            assert drawn["region"] == pytest.approx([0.25, 0.25, 0.75, 1], abs=1 / 32)
            both = {"portrait": ("x", two_faces.read_bytes())}
            answer = await client.post("/v1/portraits", files=both)
            assert answer.status_code == 422 and answer.json()["faces"] == 2 and "face N" in answer.json()["detail"]
            assert (await client.post("/v1/portraits", files=both, data={"face": "2"})).json()["faces"] == 2
            answer = await client.post("/v1/portraits", files={"portrait": ("x", b"no")})
            assert answer.status_code == 415 and str(tmp_path) not in answer.text
            assert not list((tmp_path / "jobs").iterdir())

    run(work())


def test_there_is_something_to_try_it_with(models, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, _):
            names = ("portrait.png", "voice.wav")
            sent = await asyncio.gather(*(client.get(f"/v1/samples/{name}") for name in names))
            sample = {field: ("x", answer.content) for field, answer in zip(("portrait", "audio"), sent, strict=True)}
            answer = await client.post("/v1/jobs", files=sample, data=QUICK)
            assert answer.status_code == 413 and "longer than 4 s" in answer.json()["detail"]
            for name in ("journal.sqlite", "portrait0png", "%2e%2e"):
                assert (await client.get(f"/v1/samples/{name}")).status_code in (404, 422)

    run(work())


def test_who_runs_it_sees_what_it_does(models, files, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, hands):
            log_to(tmp_path / "log.jsonl")
            assert (await client.get("/readyz")).status_code == 200
            hands.deaths = 1
            hands.hold.clear()
            good, bad = [(await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"] for _ in range(2)]
            (tmp_path / "jobs" / bad / "portrait").write_bytes(b"rotten")
            hands.hold.set()
            assert (await over(client, good))["state"] == "done"
            assert (await over(client, bad))["state"] == "failed"
            await client.post("/v1/jobs", files={**files, "portrait": ("x", b"")}, data=QUICK)
            told = (await client.get("/metrics")).text.splitlines()
            for line in (
                'emo_jobs{state="done"} 1.0',
                'emo_jobs{state="queued"} 0.0',
                "emo_queue_limit 3.0",
                'emo_failures_total{reason="input"} 1.0',
                "emo_makers_lost_total 1.0",
                "emo_frames_total 50.0",
                "emo_seconds_per_frame_count 1.0",
                'emo_answers_total{status="202"} 2.0',
                'emo_answers_total{status="422"} 1.0',
            ):
                assert line in told
            events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
            assert [each["event"] for each in events if each["job"] == good] == [
                "accepted",
                "begun",
                "lost its maker",
                "done",
            ]
            (failed,) = [each for each in events if each["event"] == "failed"]
            assert (
                failed["job"] == bad
                and "cannot be read as a picture" in failed["reason"]
                and failed["time"][:2] == "20"
            )
            hands.hold.clear()
            assert (await client.get("/readyz")).status_code == 503 and (
                await client.get("/healthz")
            ).status_code == 200

    run(work())


def test_what_goes_wrong_in_the_service_is_in_its_log_and_not_in_its_answer(models, files, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, hands):
            log_to(tmp_path / "log.jsonl")

            def broken(*_) -> None:
                raise ZeroDivisionError("secret")

            hands.maker.make = broken
            job = (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"]
            failed = await over(client, job)
            assert failed["state"] == "failed" and "secret" not in failed["error"]
            assert "ZeroDivisionError: secret" in (tmp_path / "log.jsonl").read_text()

    run(work())


def test_the_gate_is_before_the_body(models, tmp_path):
    """Neither who has no token nor who sends too much or too often has anything read of what they send."""

    async def work():
        limits = LIMITS.model_copy(update={"per_minute": 3})
        async with serving(tmp_path, models, token="secret", limits=limits) as (client, _, _):
            sent = []

            async def body():
                sent.append(1)
                yield bytes(100)

            assert (await client.post("/v1/jobs", content=body())).status_code == 401
            head = {"Authorization": "Bearer secret", "Content-Type": "multipart/form-data; boundary=x"}
            large = {**head, "Content-Length": str(10**9)}
            assert (await client.post("/v1/jobs", content=body(), headers=large)).status_code == 413
            assert not sent
            answers = [await client.post("/v1/jobs", content=body(), headers=head) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [400, 400, 400, 429]
            assert 0 < int(answers[3].headers["Retry-After"]) <= 20 and len(sent) == 3
            assert (await client.get("/metrics")).status_code == 401
            page = await client.get("/")
            assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
            for path in ("/studio/../journal.py", "/studio/%2e%2e/journal.py", "/studio//etc/passwd"):
                assert (await client.get(path)).status_code in (401, 404)

    run(work())


def test_jobs_that_share_their_steps_become_the_same_videos(models, files, tmp_path, one_lane):
    """As two at a time on an accelerator; one of them that is cancelled leaves the other alone."""

    async def work():
        async with serving(tmp_path / "a", models) as (client, _, _):
            answers = [await client.post("/v1/videos", files=files, data=QUICK | {"seed": seed}) for seed in "12"]
            alone = [answer.content for answer in answers]
        hands = Here(models, at_a_time=2)
        sizes = []
        pipeline = hands.maker._loaded["small"].pipeline
        advance = pipeline.advance
        pipeline.advance = lambda talks, tell: sizes.append(len(talks)) or advance(talks, tell)
        async with serving(tmp_path / "b", models, hands) as (client, _, _):
            hands.hold.clear()
            jobs = [
                (await client.post("/v1/jobs", files=files, data=QUICK | {"seed": str(seed)})).json()["id"]
                for seed in (1, 2)
            ]
            hands.hold.set()
            for job in jobs:
                await over(client, job)
            assert 2 in sizes
            for job, expected in zip(jobs, alone, strict=True):
                video = (await client.get(f"/v1/jobs/{job}/video")).content
                for name, content in (("one", expected), ("both", video)):
                    (tmp_path / f"{name}.mp4").write_bytes(content)
                assert psnr(pictures(tmp_path / "one.mp4"), pictures(tmp_path / "both.mp4")) > 45
            hands.hold.clear()
            first, second = [
                (await client.post("/v1/jobs", files=files, data=QUICK | {"seed": str(seed)})).json()["id"]
                for seed in (3, 4)
            ]
            await client.delete(f"/v1/jobs/{first}")
            hands.hold.set()
            assert (await over(client, second))["state"] == "done"

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
        async with serving(tmp_path, models, limits=limits) as (client, _, hands):
            job = (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"]
            async with asyncio.timeout(60):
                while (await client.get(f"/v1/jobs/{job}")).status_code != 404 or list((tmp_path / "jobs").iterdir()):
                    await asyncio.sleep(0.05)
            assert hands.made == [job]

    run(work())


def test_what_a_video_was_made_of_goes_before_it_does(models, files, tmp_path, monkeypatch):
    """Of a job that is not over nothing goes."""

    async def work():
        monkeypatch.setattr(service_module, "_LINGER", 0)
        async with serving(tmp_path, models) as (client, service, hands):
            made = (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"]
            assert (await over(client, made))["state"] == "done"
            hands.hold.clear()
            inspect_ = hands.inspect

            async def swept(*given):
                service._sweep()
                return await inspect_(*given)

            hands.inspect = swept  # in the middle of what arrives
            waits = (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"]
            service._sweep()
            left = {job: {path.name for path in (tmp_path / "jobs" / job).iterdir()} for job in (made, waits)}
            assert left[made] == {"video.mp4", "video.json"} and left[waits] >= {"portrait", "sound"}
            assert (await client.get(f"/v1/jobs/{made}/video")).status_code == 200
            hands.hold.set()
            assert (await over(client, waits))["state"] == "done"

    run(work())


def test_a_full_disk_is_said_before_anything_is_read(models, files, tmp_path):
    async def work():
        limits = LIMITS.model_copy(update={"free_bytes": 2**60})
        async with serving(tmp_path, models, limits=limits) as (client, _, _):
            answer = await client.post("/v1/jobs", content=unread(), headers=MULTIPART)
            assert answer.status_code == 429 and "disk" in answer.json()["detail"]
            assert int(answer.headers["Retry-After"]) >= 60

    run(work())


def test_an_upload_that_stops_does_not_keep_others_from_theirs(models, files, tmp_path, monkeypatch):
    async def work():
        monkeypatch.setattr(gate_module, "_SILENCE", 0.2)
        async with serving(tmp_path, models) as (client, _, _):

            async def stopped():
                yield b"--x"
                await asyncio.sleep(60)

            asked = [client.post("/v1/jobs", content=stopped(), headers=MULTIPART) for _ in range(3)]
            assert [answer.status_code for answer in await asyncio.gather(*asked)] == [408] * 3
            assert (await client.post("/v1/jobs", files=files, data=QUICK)).status_code == 202

    run(work())


def test_a_folder_that_cannot_be_cleared_does_not_keep_the_others(models, files, tmp_path, monkeypatch):
    async def work():
        async with serving(tmp_path, models) as (_, service, _):
            for name in "abc":
                (tmp_path / "jobs" / name).mkdir()
            remove = shutil.rmtree

            def stuck(path) -> None:
                if path.name == "b":
                    raise PermissionError("stuck")
                remove(path)

            with monkeypatch.context() as patch:
                patch.setattr(shutil, "rmtree", stuck)
                service._sweep()
            assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["b"]

    run(work())


async def unread():
    raise AssertionError("it was read")
    yield b""


MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


def test_of_a_full_service_nobody_uploads_in_vain(models, files, tmp_path):
    """But who has a key asks after a job that there is; and no more are read at a time than could be taken."""

    async def work():
        async with serving(tmp_path, models) as (client, _, hands):
            hands.hold.clear()
            head = {"Idempotency-Key": "k"}
            first = await client.post("/v1/jobs", files=files, data=QUICK, headers=head)
            gate = asyncio.Event()

            async def slow():
                await gate.wait()
                yield b"x"

            pending = [asyncio.create_task(client.post("/v1/jobs", content=slow(), headers=MULTIPART)) for _ in "123"]
            await asyncio.sleep(0.2)
            assert (await client.post("/v1/jobs", content=unread(), headers=MULTIPART)).status_code == 429
            gate.set()
            assert {answer.status_code for answer in await asyncio.gather(*pending)} == {400}
            for _ in range(2):
                assert (await client.post("/v1/jobs", files=files, data=QUICK)).status_code == 202
            assert (await client.post("/v1/jobs", content=unread(), headers=MULTIPART)).status_code == 429
            again = await client.post("/v1/jobs", files=files, data=QUICK, headers=head)
            assert again.json()["id"] == first.json()["id"]

    run(work())


def test_a_body_without_a_length_ends_where_it_is_too_long(models, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, _):
            sent = 0

            async def endless():
                nonlocal sent
                yield b'--x\r\nContent-Disposition: form-data; name="portrait"; filename="x"\r\n\r\n'
                while True:
                    sent += 1
                    yield bytes(2**16)

            answer = await client.post("/v1/jobs", content=endless(), headers=MULTIPART)
            assert answer.status_code == 413 and sent < 100

    run(work())


@pytest.mark.parametrize(
    "head",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:1234"},
        {"Origin": "null"},
        {"Host": "["},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_without_a_token_no_page_of_others_asks(models, files, tmp_path, head):
    async def work():
        async with serving(tmp_path / "a", models) as (client, _, _):
            assert (await client.post("/v1/jobs", content=unread(), headers=MULTIPART | head)).status_code == 403
            assert (await client.get("/v1/models", headers=head)).status_code == 403
            assert (await client.get("/v1/models", headers={"Origin": "http://localhost"})).status_code == 200
            assert (await client.get("/v1/models", headers={"Host": "[::1]:8000"})).status_code == 200
        async with serving(tmp_path / "b", models, token="secret") as (client, _, _):
            shown = head | {"Authorization": "Bearer secret"}
            assert (await client.get("/v1/models", headers=shown)).status_code == 200

    run(work())


def test_who_watches_does_not_keep_others_from_asking(models, files, tmp_path, monkeypatch):
    async def work():
        monkeypatch.setattr(gate_module, "_WATCHERS", 2)
        async with serving(tmp_path, models) as (client, _, hands):
            hands.hold.clear()
            job = (await client.post("/v1/jobs", files=files, data=QUICK)).json()["id"]
            watching = [asyncio.create_task(client.get(f"/v1/jobs/{job}/events")) for _ in range(2)]
            await asyncio.sleep(0.2)
            assert (await client.get(f"/v1/jobs/{job}/stream")).status_code == 429
            assert (await client.get(f"/v1/jobs/{job}")).status_code == 200
            hands.hold.set()
            assert {answer.status_code for answer in await asyncio.gather(*watching)} == {200}
            assert (await client.get(f"/v1/jobs/{job}/stream")).status_code == 200

    run(work())


def test_its_description_needs_no_network_and_shows_what_to_ask(models, tmp_path):
    async def work():
        async with serving(tmp_path, models) as (client, _, _):
            page = (await client.get("/docs")).text
            assert "://" not in page.replace(str(client.base_url), "")
            for file in re.findall(r'(?:src|href)="(/[^"]+)"', page):
                assert (await client.get(file)).status_code == 200, file
            asked = (await client.get("/openapi.json")).json()["components"]["schemas"]["Asked"]["properties"]
            assert asked["speed"]["examples"] == ["calm", "0.7"]

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


HOSTILE = {
    "portrait": [
        ("w15_truncated.jpg", 415),
        ("w16_zero_bytes.png", 422),
        ("w17_text_renamed.png", 415),
        ("w20_flat_gray_noface.png", 422),
        ("w24_two_identical_faces.png", 422),
    ],
    "audio": [
        ("x08_nan_float.wav", 422),
        ("x11_zero_length.wav", 422),
        ("x12_zero_bytes.wav", 422),
        ("x25_text.wav", 422),
    ],
}
FOLDERS = {"portrait": "image", "audio": "audio"}


def test_every_hostile_file_is_told_what_is_wrong_with_it(models, files, real_data, tmp_path):
    async def work():
        limits = LIMITS.model_copy(update={"portrait_bytes": 30 * 2**20, "sound_bytes": 30 * 2**20})
        async with serving(tmp_path, models, limits=limits) as (client, service, _):
            for field, expected in HOSTILE.items():
                for name, status in expected:
                    content = (real_data / "hostile" / FOLDERS[field] / name).read_bytes()
                    answer = await client.post("/v1/jobs", files={**files, field: (name, content)}, data=QUICK)
                    said = answer.json()["detail"]
                    assert answer.status_code == status, (name, said)
                    assert said.startswith(f"{field}: ") and str(tmp_path) not in said and len(said) < 300
            for field, folder in FOLDERS.items():
                for path in sorted((real_data / "hostile" / folder).iterdir()):
                    answer = await client.post("/v1/jobs", files={**files, field: (path.name, path.read_bytes())})
                    assert answer.status_code in (202, 413, 415, 422), (path, answer.text)
                    if answer.status_code == 202:
                        await client.delete(f"/v1/jobs/{answer.json()['id']}")
            bomb = io.BytesIO()
            Image.new("1", (60_000, 60_000)).save(bomb, "PNG")
            answer = await client.post("/v1/jobs", files={**files, "portrait": ("b", bomb.getvalue())}, data=QUICK)
            assert answer.status_code == 415 and "60000" in answer.json()["detail"]
            assert all(service.get(job.name) for job in (tmp_path / "jobs").iterdir())

    run(work())

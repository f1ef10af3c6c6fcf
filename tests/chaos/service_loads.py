"""The service under more than it can do, killed over and over, and asked nonsense."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.emo_core.served import Served, burst, inputs, nothing_is_lost_or_made_twice, short, undisturbed

STEPS = 40
SCHEMATHESIS = [str(Path(sys.executable).with_name("schemathesis")), "run"]


@pytest.fixture
def files(model_folder):
    return inputs(model_folder)


def test_a_burst_of_500(model_folder, files, tmp_path):
    served = Served(str(model_folder / "model"), tmp_path, "--queue", "64")
    try:
        files = short(files, tmp_path)
        _, warm = burst(served, files, 1)
        nothing_is_lost_or_made_twice(served, warm)
        before = served.memory()
        for name, count in (("a", 500), ("b", 100)):  # what the first one takes the second finds taken
            first, jobs = burst(served, files, count, name)
            after = served.memory()
            print(f"first answers: {dict(first)}; memory of the front {before:.0f} -> {after:.0f} MiB", flush=True)
            assert first[202] + first[429] == count and first[202] >= 64
            nothing_is_lost_or_made_twice(served, jobs)
            if name == "b":
                assert after < before + 30
            before = after
    finally:
        served.die()


def test_20_jobs_and_a_kill_of_every_kind_again_and_again(model_folder, files, tmp_path):
    rng = random.Random(0)
    served = Served(str(model_folder / "model"), tmp_path / "jobs")
    kills = 0
    try:
        wish = {"steps": str(STEPS), "guidance": "1"}
        jobs = [
            served.client.post("/v1/jobs", files=files, data=wish | {"seed": str(seed)}).json()["id"]
            for seed in range(20)
        ]
        for part in ["makers", "front", "all", "makers", "makers", "front", "all", "makers", "front", "all"]:
            left = [job for job in jobs if served.state(job)["state"] != "done"]
            got_to(served, left[0], rng.uniform(0.1, 0.8))
            if part == "all":
                served.die()
                served = Served(str(model_folder / "model"), tmp_path / "jobs")
            else:
                served.kill(part)
            kills += 1
            print(f"kill {kills}: {part}, {len(left)} jobs left", flush=True)
        served.wait(lambda: all(served.state(job)["state"] == "done" for job in jobs), 600)
        for seed, job in enumerate(jobs):
            video = served.client.get(f"/v1/jobs/{job}/video").content
            assert video == undisturbed(model_folder, tmp_path / "undisturbed.mp4", STEPS, seed), job
    finally:
        served.die()


def got_to(served: Served, job: str, share: float) -> None:
    """Wait until so much of it is done."""
    served.wait(lambda: served.state(job)["progress"] >= share, 240)


def test_1000_requests_of_nonsense(model_folder, files, tmp_path):
    served = Served(str(model_folder / "model"), tmp_path, "--per-minute", "100000")
    try:
        asked = fuzz(served, 130, tmp_path)
        assert asked >= 1000
        rng, told = random.Random(0), Counter()
        for number in range(300):
            spoilt = rng.choice(["portrait", "audio"])
            sent = files | {spoilt: (spoilt, damaged(files[spoilt][1], rng))}
            answer = served.client.post("/v1/jobs", files=sent, data={"steps": "1", "guidance": "1"})
            assert answer.status_code in (202, 415, 422), (number, answer.text)
            told[answer.status_code] += 1
            if answer.status_code == 202:
                served.client.delete(f"/v1/jobs/{answer.json()['id']}")
        print(f"{asked} requests by schemathesis, 300 with damaged files: {dict(told)}", flush=True)
        assert not [line for line in served.log() if line["level"] == "error"]
        nothing_is_lost_or_made_twice(served, burst(served, files, 3)[1])
    finally:
        served.die()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut off, or with some bytes that are others, or nothing but those."""
    kind = rng.randrange(3)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        return rng.randbytes(rng.randrange(1, 5000))
    several = bytearray(content)
    for _ in range(rng.randrange(1, 50)):
        several[rng.randrange(len(several))] = rng.randrange(256)
    return bytes(several)


def fuzz(served: Served, examples: int, folder: Path) -> int:
    """How many requests schemathesis made of the OpenAPI description, so many of each operation; with no 5xx, and no
    answer that the description knows nothing of."""
    before = answers(served)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    options = ["--checks", checks, "--max-examples", str(examples), "--seed", "1", "--request-timeout", "60"]
    told = subprocess.run(
        [*SCHEMATHESIS, f"{served.url}/openapi.json", *options, "--suppress-health-check", "all"],
        capture_output=True,
        cwd=folder,
        text=True,
    )
    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-2000:]
    now = answers(served) - before
    assert not [status for status in now if status >= 500], now
    return now.total()


def answers(served: Served) -> Counter:
    """Requests that were answered so far, by status."""
    lines = served.client.get("/metrics").text.splitlines()
    told = [line for line in lines if line.startswith("emo_answers_total")]
    return Counter({int(line.split('"')[1]): int(float(line.split()[-1])) for line in told})

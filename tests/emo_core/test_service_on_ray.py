"""`emo serve` as a person starts it: a real Ray Serve, whose processes are killed while they work."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from emo_core.inference.generate import Request, generate, load_pipeline
from emo_core.inference.sampling import Sampling
from tests.emo_core.runs import CPU


class Served:
    """A service on a free port."""

    def __init__(self, model: str, jobs) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-c", "from flows.cli import main; main()", "serve", "--model", model]
        self.process = psutil.Popen(
            [*command, "--port", str(self.port), "--jobs", str(jobs)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self.wait(lambda: self.client.get("/healthz").status_code == 200, 120)

    def wait(self, done, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if done():
                    return
            except (httpx.TransportError, ValueError):
                assert self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE, "the service ended"
            time.sleep(0.1)
        raise AssertionError("it did not come to be")

    def state(self, job: str) -> dict:
        answer = self.client.get(f"/v1/jobs/{job}")
        answer.raise_for_status()
        return answer.json()

    def kill(self, name: str) -> None:
        """The replicas of a deployment."""
        found = [each for each in self.process.children(recursive=True) if f":{name}" in " ".join(_line(each))]
        assert found, name
        for each in found:
            each.kill()

    def die(self) -> None:
        """All of it, at once."""
        for each in [self.process, *self.process.children(recursive=True)]:
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


@pytest.fixture
def files(model_folder):
    return {
        name: (name, (model_folder / file).read_bytes())
        for name, file in (("portrait", "portrait.png"), ("audio", "voice.wav"))
    }


def test_whatever_is_killed_every_accepted_job_becomes_its_video(model_folder, files, tmp_path):
    """A maker, the front, then all of Ray; and what is cancelled makes room at once."""
    served = Served(str(model_folder / "model"), tmp_path / "jobs")
    try:
        wish = {"steps": "40", "guidance": "1"}
        jobs = [
            served.client.post("/v1/jobs", files=files, data=wish | {"seed": str(seed)}).json()["id"]
            for seed in range(4)
        ]
        served.wait(lambda: served.state(jobs[0])["state"] == "running", 60)
        served.kill("makers")
        served.wait(lambda: served.state(jobs[0])["state"] in ("running", "done"), 60)
        served.kill("front")
        served.wait(lambda: served.state(jobs[1])["state"] in ("running", "done"), 120)
        served.die()
        served = Served(str(model_folder / "model"), tmp_path / "jobs")
        assert served.client.delete(f"/v1/jobs/{jobs[3]}").json()["state"] in ("cancelled", "done")
        served.wait(lambda: all(served.state(job)["state"] == "done" for job in jobs[:3]), 120)
        loaded = load_pipeline(model_folder / "model", CPU)
        for seed, job in enumerate(jobs[:3]):
            undisturbed = tmp_path / f"{seed}.mp4"
            portrait, voice = model_folder / "portrait.png", model_folder / "voice.wav"
            sampling = Sampling(40, 1, 1, seed, "dpm++")
            generate(loaded, Request(portrait, voice, undisturbed, sampling=sampling))
            assert served.client.get(f"/v1/jobs/{job}/video").content == undisturbed.read_bytes()
        assert served.end() == []
    finally:
        if served.process.is_running():
            served.die()


def test_another_host_needs_a_token(model_folder, capfd, monkeypatch):
    from flows.cli import run

    monkeypatch.delenv("EMO_TOKEN", raising=False)
    assert run(["serve", "--model", str(model_folder / "model"), "--host", "0.0.0.0"]) == 2
    assert "set EMO_TOKEN" in capfd.readouterr().err

"""A Ray cluster of one machine as somebody sets it up: `ray start --head`, on the loopback, with a token."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from tests.flows.server import free_port


class Cluster:
    """url: of its dashboard. service_token: what the service of emo there asks for."""

    def __init__(self, folder: Path) -> None:
        self.token, self.url = secrets.token_hex(16), f"http://127.0.0.1:{free_port()}"
        self.service_token, self.service_port = secrets.token_hex(16), free_port()
        root, binaries = Path(__file__).parents[2], Path(sys.executable).parent
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PREFECT_"))},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "EMO_TOKEN": self.service_token,
            "RAY_JOB_STOP_WAIT_TIME_S": "10",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(root),
        }
        ports = {
            "port": free_port(),
            "ray-client-server-port": free_port(),
            "dashboard-agent-listen-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "metrics-export-port": free_port(),
            "dashboard-port": int(self.url.rpartition(":")[2]),
        }
        self.log = (folder / "ray.log").open("wb")
        self.process = psutil.Popen(
            [
                *(str(binaries / "ray"), "start", "--head", "--block", "--num-cpus", "4"),
                *("--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1"),
                *("--object-store-memory", str(200 * 2**20), "--disable-usage-stats"),
                *(f"--{name}={number}" for name, number in ports.items()),
            ],
            env=environment,
            cwd=folder,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=10)
        end = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < end, (folder / "ray.log").read_text()
            time.sleep(0.3)

    @property
    def endpoint(self) -> str:
        """Where the service of emo there answers."""
        return f"http://127.0.0.1:{self.service_port}"

    def service_form(self, model: Path, folder: Path) -> dict[str, object]:
        """What the flow `serve` takes to put a model into service there."""
        return {
            "model": str(model),
            "folder": str(folder),
            "port": self.service_port,
            "endpoint": self.endpoint,
            "minutes": 15,
        }

    def _answers(self) -> bool:
        try:
            return self.http.get("/api/jobs/").is_success
        except httpx.TransportError:
            return False

    def jobs(self) -> dict[str, str]:
        """Status by the id that was given at submission."""
        return {job["submission_id"]: job["status"] for job in self.http.get("/api/jobs/").json()}

    def end(self) -> list[psutil.Process]:
        """What is left of it. By its processes: `ray stop` would end every Ray of this machine."""
        family = [self.process, *self.process.children(recursive=True)]
        self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=10)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):  # it went with another
                process.kill()
        self.http.close()
        self.log.close()
        return psutil.wait_procs(left, timeout=10)[1]

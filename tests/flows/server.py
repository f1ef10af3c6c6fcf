"""`emo flows serve` as a person starts it, and Prefect's API as its page uses it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
EMO = [sys.executable, "-c", "from flows.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Flows:
    """A server of Prefect with all flows, in a folder of its own. jobs: where its jobs leave their notes."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder, self.jobs = free_port(), folder, str(folder / "jobs")
        self.page = f"http://127.0.0.1:{self.port}"
        self.home = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        unset = ("PREFECT_API_URL", "PREFECT_PROFILE", "EMO_JOB")
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        self.environment = {**inherited, **self.home, "PYTHONPATH": str(Path(__file__).parents[2])}
        self.log = (folder / "serve.log").open("wb")
        self.process = psutil.Popen(
            [*EMO, "flows", "serve", "--port", str(self.port), "--gpus", "1"],
            env=self.environment,
            cwd=folder,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.http = httpx.Client(base_url=f"{self.page}/api", timeout=30)
        self.environment = {**self.environment, "PREFECT_API_URL": f"{self.page}/api"}
        self.deployments = self._registered()

    def _registered(self) -> dict[str, str]:
        def ask() -> dict[str, str]:
            with contextlib.suppress(httpx.TransportError):
                answer = self.http.post("/deployments/filter", json={"deployments": {"name": {"any_": ["emo"]}}})
                if answer.is_success:
                    return {one["entrypoint"].rsplit(".", 1)[1]: one["id"] for one in answer.json()}
            assert self.process.poll() is None, (self.folder / "serve.log").read_text()
            return {}

        return self.until(lambda: (found := ask()).get("reaper") and found, 600)

    def until(self, ask: Any, seconds: float) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := ask():
                return found
            time.sleep(0.1)
        raise AssertionError("it did not come to be")

    def submit(self, flow: str, **parameters: Any) -> httpx.Response:
        """As the form's button does."""
        asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        where = f"/deployments/{self.deployments[flow]}/create_flow_run"
        # A busy server's database says so: whoever asks has to ask again.
        return self.until(lambda: (answer := self.http.post(where, json=asked)).status_code != 503 and answer, 60)

    def start(self, flow: str, what: dict[str, Any] | None = None, **where: Any) -> str:
        """The id of the run."""
        named = {} if what is None else {"what": what}
        answer = self.submit(flow, **named, where={"notes": self.jobs, **where})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def set_state(self, run: str, kind: str, name: str | None = None) -> None:
        """As the page's buttons Cancel and Retry do."""
        answer = self.http.post(f"/flow_runs/{run}/set_state", json={"state": {"type": kind, "name": name}})
        assert answer.json()["status"] == "ACCEPT", answer.text

    def cancel(self, run: str) -> float:
        """Seconds until it is."""
        start = time.monotonic()
        self.set_state(run, "CANCELLING")
        assert self.ended(run, 60)["type"] == "CANCELLED"
        seconds = time.monotonic() - start
        print(f"cancelled after {seconds:.1f} s")
        return seconds

    def retry(self, run: str) -> None:
        self.set_state(run, "SCHEDULED", "AwaitingRetry")

    def state(self, run: str) -> dict[str, Any]:
        return dict(self.http.get(f"/flow_runs/{run}").json()["state"])

    def ended(self, run: str, seconds: float = 600) -> dict[str, Any]:
        """The state that it ends in."""

        def final() -> dict[str, Any] | None:
            state = self.state(run)
            return state if state["type"] in FINAL else None

        return dict(self.until(final, seconds))

    def completed(self, run: str, seconds: float = 600) -> None:
        state = self.ended(run, seconds)
        assert state["type"] == "COMPLETED", f"{state['message']}\n{self.logs(run)}"

    def block(self, kind: str, name: str, data: dict[str, Any]) -> None:
        """As somebody makes one on the page."""
        kinds = self.http.post("/block_types/filter", json={}).json()
        block_type = next(one["id"] for one in kinds if one["slug"] == kind)
        asked = {"block_schemas": {"block_type_id": {"any_": [block_type]}}}
        schema = self.http.post("/block_schemas/filter", json=asked).json()[0]["id"]
        block = {"name": name, "data": data, "block_type_id": block_type, "block_schema_id": schema}
        answer = self.http.post("/block_documents/", json=block)
        assert answer.status_code == 201, answer.text

    def logs(self, run: str) -> str:
        asked = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.http.post("/logs/filter", json=asked).json())

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """By key."""
        asked = {"artifacts": {"flow_run_id": {"any_": [run]}}}
        return {one["key"]: one for one in self.http.post("/artifacts/filter", json=asked).json()}

    def seconds_to_first_line(self, run: str, line: str) -> float:
        """From the submission until the job's first line stands in the run's log."""
        asked = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        told = self.http.post("/logs/filter", json=asked).json()
        first = next(one["timestamp"] for one in told if line in one["message"])
        created = self.http.get(f"/flow_runs/{run}").json()["created"]
        return (datetime.fromisoformat(first) - datetime.fromisoformat(created)).total_seconds()

    def process_of(self, run: str) -> psutil.Process:
        """Of the flow."""
        for process in self.process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                here = process.environ().get("PREFECT__FLOW_RUN_ID") == run
                if here and "prefect" in " ".join(process.cmdline()):
                    return process
        raise AssertionError("the run has no process")

    def end(self) -> list[psutil.Process]:
        """As Ctrl-C does; what is left of it."""
        family = self.process.children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(90) == 0, (self.folder / "serve.log").read_text()
        self.http.close()
        self.log.close()
        return psutil.wait_procs(family, timeout=20)[1]

"""Jobs on a Ray cluster, by its Jobs API: HTTP, because Ray's own client would bring all of Ray into the flow."""

import hashlib
import io
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx

from emo_data.errors import UserError
from flows.launch.launcher import JobLost, Life
from flows.notes import VARIABLE, Spec

_PATIENCE = 120.0
"""Seconds that a cluster may not answer: a head that is started again loses nothing but time."""
_STOPPING = 25.0
"""Seconds until a job that was told to stop must have ended; Ray kills it after RAY_JOB_STOP_WAIT_TIME_S."""
_LOGS_EVERY = 10.0
"""Seconds: the API sends a log as a whole."""
_AWAY = (502, 503, 504)
"""What stands before a dashboard says so while there is none behind it."""
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")


class RayJobs:
    """A cluster's jobs. url: of its dashboard. token: the cluster's, in every request."""

    def __init__(self, url: str, token: str | None, upload: bool = False) -> None:
        """upload: send this code along; else the cluster's nodes have it."""
        head = {"Authorization": f"Bearer {token}"} if token else {}
        self._url, self._upload = url.rstrip("/"), upload
        self._http = httpx.Client(base_url=self._url, headers=head, timeout=30)
        self._logged = 0.0

    def submit(self, spec: Spec) -> None:
        """See `Launcher`."""
        environment: dict[str, Any] = {"env_vars": {VARIABLE: spec.model_dump_json()}}
        if self._upload:
            environment["working_dir"] = self._send_code()
        self._ask("DELETE", f"/api/jobs/{spec.id}")  # of an earlier try
        answer = self._ask(
            "POST",
            "/api/jobs/",
            # A constant: Ray gives it to a shell.
            json={"entrypoint": "python -m flows.job", "submission_id": spec.id, "runtime_env": environment},
        )
        if not answer.is_success and self.status(spec.id)[0] is not Life.RUNNING:  # an answer may have been lost
            raise JobLost(f"{self._url} did not take the job: {answer.status_code} {answer.text.strip()[-500:]}")

    def status(self, job: str) -> tuple[Life, str]:
        """See `Launcher`."""
        answer = self._ask("GET", f"/api/jobs/{job}")
        if answer.status_code == 404:
            return Life.UNKNOWN, f"{self._url} knows no {job}"
        told = self._good(answer).json()
        life = Life.ENDED if told["status"] in _OVER else Life.RUNNING
        return life, f"{told['status']}: {told.get('message') or ''}"

    def stop(self, job: str) -> None:
        """See `Launcher`."""
        self._ask("POST", f"/api/jobs/{job}/stop")
        end = time.monotonic() + _STOPPING
        while self.status(job)[0] is Life.RUNNING:
            if time.monotonic() > end:
                raise JobLost(f"{self._url} does not stop {job}")
            time.sleep(0.5)

    def logs(self, job: str, start: int) -> tuple[str, int]:
        """See `Launcher`."""
        if time.monotonic() - self._logged < _LOGS_EVERY and self.status(job)[0] is Life.RUNNING:
            return "", start
        self._logged = time.monotonic()
        answer = self._ask("GET", f"/api/jobs/{job}/logs")
        if answer.status_code == 404:
            return "", start
        text = str(self._good(answer).json()["logs"])[start:].rpartition("\n")[0]
        return text, start + len(text) + bool(text)

    def link(self, job: str) -> str:
        """See `Launcher`."""
        return f"{self._url}/#/jobs/{job}"

    def _send_code(self) -> str:
        """Upload the three packages under a name that their content decides; its address within the cluster."""
        root, buffer = Path(__file__).parents[2], io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for package in ("emo_core", "emo_data", "flows"):
                for path in sorted((root / package).rglob("*")):
                    if path.is_file() and "__pycache__" not in path.parts:
                        info = zipfile.ZipInfo(f"code/{path.relative_to(root)}")  # without the time of day
                        archive.writestr(info, path.read_bytes())
        name = f"_ray_pkg_{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.zip"
        if self._ask("GET", f"/api/packages/gcs/{name}").status_code == 404:
            self._good(self._ask("PUT", f"/api/packages/gcs/{name}", content=buffer.getvalue()))
        return f"gcs://{name}"

    def _ask(self, method: str, path: str, **what: Any) -> httpx.Response:
        """Raises JobLost where the cluster is away for long, and UserError where it wants another token."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                answer = self._http.request(method, path, **what)
            except httpx.TransportError as error:
                if time.monotonic() > end:
                    raise JobLost(f"{self._url}: no answer for {_PATIENCE:.0f} s: {error}") from error
            else:
                if answer.status_code in (401, 403):
                    raise UserError(
                        f"Ray cluster {self._url}: wants another token; set RAY_AUTH_TOKEN or the block ray-token"
                    )
                if answer.status_code not in _AWAY or time.monotonic() > end:
                    return answer
            time.sleep(2)

    def _good(self, answer: httpx.Response) -> httpx.Response:
        if not answer.is_success:
            raise JobLost(f"{self._url}: answers {answer.status_code}: {answer.text.strip()[-500:]}")
        return answer

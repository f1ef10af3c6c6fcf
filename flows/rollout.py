"""The service on a Ray cluster, by Ray Serve's REST API; the same application as infra/serve/service.yaml."""

import time
from typing import Any, Self

import httpx

from emo_data.errors import UserError
from flows.forms.serve import ServeForm

NAME = "emo"
"""Of the application: a cluster has one, and may have others of other people."""
_PATH = "/api/serve/applications/"
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


class NotServed(RuntimeError):
    """The service does not come up."""


def application(what: ServeForm) -> dict[str, Any]:
    """As `ray.serve.schema.ServeApplicationSchema` has it."""
    return {
        "name": NAME,
        "route_prefix": "/",
        "import_path": "emo_core.serving.on_ray:build",
        "args": {
            "models": {what.name: what.model},
            "folder": what.folder,
            "device": what.device,
            "makers": what.makers,
            "most_makers": what.most_makers,
        },
    }


class Cluster:
    """Its Serve. url, token: of its dashboard."""

    def __init__(self, url: str, token: str | None) -> None:
        head = {"Authorization": f"Bearer {token}"} if token else {}
        self._url, self._http = url, httpx.Client(base_url=url, headers=head, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def applications(self) -> list[dict[str, Any]]:
        """What was deployed by configuration, ours and others'."""
        there = self._ask("GET")["applications"].values()
        return [one["deployed_app_config"] for one in there if one["deployed_app_config"]]

    def deploy(self, applications: list[dict[str, Any]], port: int) -> None:
        """These and no others; of two that have one name, the later. Returns before they are ready."""
        told = {one["name"]: one for one in applications}
        http = {"host": "127.0.0.1", "port": port}  # what lets others in stands before it
        self._ask("PUT", {"proxy_location": "HeadOnly", "http_options": http, "applications": list(told.values())})

    def wait_until_ready(self, seconds: float, endpoint: str | None, token: str | None) -> None:
        """Raises NotServed with what Ray says, at once where it has given up."""
        end, said = time.monotonic() + seconds, ""
        while time.monotonic() < end:
            mine = self._ask("GET")["applications"].get(NAME, {})
            said = f"{mine.get('status', 'unknown')} {mine.get('message', '')}".strip()
            if mine.get("status") in _FAILED:
                raise NotServed(f"the service did not come up; what ran before is back. Ray says: {said[-2000:]}")
            if mine.get("status") == "RUNNING" and (endpoint is None or _says_ready(endpoint, token)):
                return
            time.sleep(2)
        raise NotServed(f"not ready after {seconds / 60:g} minutes; what ran before is back. Ray says: {said[-2000:]}")

    def _ask(self, method: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
        """Three times: on a busy machine Serve's own processes may not be there in its time."""
        for last in (False, False, True):
            try:
                return self._asked_once(method, config)
            except NotServed:
                if last:
                    raise
                time.sleep(5)
        raise AssertionError("the last try either answers or raises")

    def _asked_once(self, method: str, config: dict[str, Any] | None) -> dict[str, Any]:
        try:
            answer = self._http.request(method, _PATH, headers={"Accept": "application/json"}, json=config)
        except httpx.TransportError as error:
            raise NotServed(f"Ray cluster {self._url}: no answer: {error}") from error
        if answer.status_code in (401, 403):
            raise UserError(f"Ray cluster {self._url}: wants another token; set RAY_AUTH_TOKEN or the block ray-token")
        if not answer.is_success:
            raise NotServed(f"{self._url} answers {answer.status_code}: {answer.text.strip()[-2000:]}")
        return dict(answer.json()) if method == "GET" else {}


def _says_ready(endpoint: str, token: str | None) -> bool:
    head = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        return httpx.get(f"{endpoint.rstrip('/')}/readyz", headers=head, timeout=10).is_success
    except httpx.TransportError:
        return False

"""A model that breaks when it is loaded: the service that ran before comes back."""

import shutil

import httpx
import pytest

from tests.flows.conftest import served, serviceable  # noqa: F401 - fixtures
from tests.flows.test_ray_jobs import cluster, token_block  # noqa: F401 - fixtures


@pytest.mark.usefixtures("token_block")
def test_what_ran_before_a_model_that_breaks_comes_back(served, cluster, serviceable, tmp_path):  # noqa: F811
    endpoint, what = cluster.endpoint, cluster.service_form(serviceable, tmp_path / "jobs")
    run = served.start("serve", what, cluster=cluster.url)
    served.completed(run, 900)
    shutil.copytree(serviceable, tmp_path / "broken")
    for weights in (tmp_path / "broken").rglob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    run = served.start("serve", {**what, "model": str(tmp_path / "broken"), "name": "bad"}, cluster=cluster.url)
    state = served.ended(run, 900)
    assert state["type"] == "FAILED" and "what ran before is back" in state["message"]
    head = {"Authorization": f"Bearer {cluster.service_token}"}

    def back():
        try:
            models = httpx.get(f"{endpoint}/v1/models", headers=head)
        except httpx.TransportError:  # while one makes room for the other
            return False
        return models.is_success and [one["id"] for one in models.json()] == ["default"]

    served.until(back, 600)

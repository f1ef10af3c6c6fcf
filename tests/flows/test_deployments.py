"""What servers are told of the flows: by us, and by the file for Prefect's own command."""

import json
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect import Flow
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from emo_data.errors import UserError
from flows.deployed.all import DEPLOYED
from flows.deployed.register import NAME, deploy
from tests.flows.server import EMO

INFRA = Path(__file__).parents[2] / "infra" / "prefect"
KEYS = {"name", "entrypoint", "description", "tags", "work_pool", "concurrency_limit", "schedules"}


def entry(deployed):
    return f"{deployed.flow.fn.__module__}.{deployed.flow.fn.__name__}"


def test_the_file_says_what_we_say():
    told = yaml.safe_load((INFRA / "prefect.yaml").read_text())
    assert [one["entrypoint"] for one in told["deployments"]] == [entry(deployed) for deployed in DEPLOYED]
    for one, deployed in zip(told["deployments"], DEPLOYED, strict=True):
        assert set(one) <= KEYS  # Prefect reads over what it does not know
        module, _, name = one["entrypoint"].rpartition(".")
        assert isinstance(getattr(import_module(module), name), Flow)
        here = {"working_dir": "{{ $PWD }}"}
        assert (one["name"], one["work_pool"]) == (NAME, {"name": "emo", "job_variables": here})
        assert one["description"] == deployed.flow.description
        assert one["tags"] == [NAME, *deployed.tags]
        assert one.get("concurrency_limit", {}).get("limit") == deployed.at_a_time
        assert [schedule["cron"] for schedule in one.get("schedules", [])] == ([deployed.cron] if deployed.cron else [])
        assert not any(schedule["active"] for schedule in one.get("schedules", []))


def test_who_hears_of_failures_is_said_as_prefect_understands_it():
    text = (INFRA / "failed.yaml").read_text()
    known = AutomationCore.model_validate(
        yaml.safe_load(text.replace("BLOCK", "11111111-1111-4111-8111-111111111111", 2))
    )
    assert {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"} == set(known.trigger.expect)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="block_document_id"):
        AutomationCore.model_validate(yaml.safe_load(text))


def test_what_is_served_is_registered(served):
    asked = {"deployments": {"name": {"any_": [NAME]}}}
    found = {one["entrypoint"]: one for one in served.http.post("/deployments/filter", json=asked).json()}
    assert set(found) == {entry(deployed) for deployed in DEPLOYED}
    for deployed in DEPLOYED:
        one = found[entry(deployed)]
        assert one["tags"] == [NAME, *deployed.tags] and not one["paused"]
        assert [schedule["active"] for schedule in one["schedules"]] == ([False] if deployed.cron else [])
        required = one["parameter_openapi_schema"].get("required", [])
        assert required == ([] if deployed.flow.name in ("reaper", "proof") else ["what"])
    limits = served.http.post("/v2/concurrency_limits/filter", json={}).json()
    assert {one["name"]: one["limit"] for one in limits}["emo-gpus"] == 1
    kinds = {one["slug"] for one in served.http.post("/block_types/filter", json={}).json()}
    assert "emo-object-store" in kinds


def test_deploy_registers_for_a_pool_and_lets_schedules_be(served, tmp_path):
    assert served.http.post("/work_pools/", json={"name": "pool", "type": "process"}).status_code == 201
    command = [*EMO, "flows", "deploy", "--pool", "pool", "--json"]

    def registered():
        shown = subprocess.run(
            command, env=served.environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return json.loads(shown.stdout)["deployments"]

    assert registered() == [f"{deployed.flow.name}/pool" for deployed in DEPLOYED]
    made = served.http.get("/deployments/name/reaper/pool").json()
    assert made["work_pool_name"] == "pool" and made["path"] is None
    assert made["job_variables"] == {"working_dir": str(tmp_path)}  # else each run has a folder that goes with it
    schedule = f"/deployments/{made['id']}/schedules/{made['schedules'][0]['id']}"
    assert served.http.patch(schedule, json={"active": True}).is_success
    registered()  # a new release
    assert [one["active"] for one in served.http.get("/deployments/name/reaper/pool").json()["schedules"]] == [True]
    served.http.patch(schedule, json={"active": False})


@pytest.mark.parametrize(
    ("url", "said"),
    [(None, "PREFECT_API_URL is not set"), ("http://127.0.0.1:1/api", "no Prefect server that lets us in")],
)
def test_where_there_is_no_server_that_is_said(url, said):
    nowhere = temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0})
    with nowhere, pytest.raises(UserError, match=said):
        deploy("pool", None, None)


def test_a_pool_that_is_not_there_is_named(served):
    there = temporary_settings({PREFECT_API_URL: f"{served.page}/api"})
    with there, pytest.raises(UserError, match="--pool nobodys: "):
        deploy("nobodys", None, None)

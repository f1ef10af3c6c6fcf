"""What a cluster adds to the flows: the pool's template, the automation, and prefect.yaml where there is one."""

import json
from importlib import import_module

import jsonschema
import pytest
import yaml
from prefect import Flow
from prefect.events.schemas.automations import AutomationCore
from prefect.utilities.templating import apply_values, find_placeholders

from tests.infra.files import INFRA, PINS, VERSION, found, spoiled
from tests.infra.test_kubernetes import SECRETS, base, validate

POOL, ZOMBIES = INFRA / "prefect" / "pool.json", INFRA / "prefect" / "zombies.yaml"
# Of prefect-kubernetes 0.8.0, KubernetesWorkerJobConfiguration.
CONFIGURATION = {
    *("command", "env", "labels", "name", "namespace", "job_manifest", "cluster_config", "stream_output"),
    *("job_watch_timeout_seconds", "pod_watch_timeout_seconds"),
}
STATES = {"SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED", "CANCELLING"}


def check_pool(text: str) -> None:
    told = json.loads(text)
    assert told.keys() == {"job_configuration", "variables"}
    configuration, variables = told["job_configuration"], told["variables"]
    assert configuration.keys() <= CONFIGURATION, configuration.keys() - CONFIGURATION
    jsonschema.Draft202012Validator.check_schema(variables)
    holders = {one.name for one in find_placeholders(configuration)}
    assert holders == variables["properties"].keys(), "each variable has its place"
    assert variables["properties"]["image"]["default"] == f"open-emo:{VERSION}-cpu"
    assert variables["properties"]["namespace"]["default"] == "emo"
    filled = {name: one["default"] for name, one in variables["properties"].items() if "default" in one}
    filled |= {"name": "run", "command": ["prefect"], "env": [], "labels": {}}
    job = apply_values(configuration["job_manifest"], filled)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert (
        job["spec"].keys() == {"backoffLimit", "ttlSecondsAfterFinished", "template"}
        and job["spec"]["backoffLimit"] == 0
    )
    validate(job["metadata"], "metadata")
    validate(job["spec"]["template"], "pod")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    there = {one["metadata"]["name"] for one in base() if one["kind"] in ("ConfigMap", "ServiceAccount")}
    assert pod["serviceAccountName"] in there
    for source in container["envFrom"]:
        (reference,) = source.values()
        assert reference["name"] in there | SECRETS
    secrets = [source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source]
    assert "emo-flows" in secrets, "the token of the clusters is there"
    policies = [one["spec"] for one in base() if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "ray"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert {"podSelector": {"matchLabels": labels}} in policies[0]["ingress"][1]["from"], "it reaches the cluster"


def check_automation(text: str) -> None:
    told = yaml.safe_load(text)
    kept = AutomationCore.model_validate(told).model_dump(mode="json")
    _known(told, kept)  # Prefect itself reads over what it does not know
    trigger = kept["trigger"]
    assert trigger["posture"] == "Proactive" and trigger["within"] == 90 and trigger["threshold"] == 1
    assert trigger["after"] == ["prefect.flow-run.heartbeat"], "those that have never lived are not dead"
    for event in trigger["expect"]:
        state = event.rpartition(".")[2]
        assert event.startswith("prefect.flow-run.") and (state == "heartbeat" or state.upper() in STATES), event
    assert kept["actions"][0]["state"] == "CRASHED"
    settings = next(one["data"] for one in base() if one["kind"] == "ConfigMap")
    assert int(settings["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) * 3 <= trigger["within"], "three signs of life"


def _known(told: object, kept: object) -> None:
    if isinstance(told, dict) and isinstance(kept, dict):
        assert told.keys() <= kept.keys(), told.keys() - kept.keys()
        for name in told:
            _known(told[name], kept[name])
    elif isinstance(told, list) and isinstance(kept, list):
        assert len(told) == len(kept)
        for one, other in zip(told, kept, strict=True):
            if isinstance(one, dict):
                _known(one, other)


def test_the_pool_starts_contained_pods():
    check_pool(POOL.read_text())


@pytest.mark.parametrize(
    "typo",
    [
        ("{{ image }}", "{{ images }}"),
        ('"job_manifest"', '"job_manifests"'),
        ('"envFrom"', '"env_from"'),
        ('"emo-settings"', '"emo-setting"'),
        ('"emo-flows"', '"emo-ray-token"'),
        ('"serviceAccountName": "emo"', '"serviceAccountName": "default"'),
        ('"emo/part": "flow"', '"emo/part": "flows"'),
        ('"runAsNonRoot": true', '"runAsNonRoot": false'),
        ("0.1.0-cpu", "latest"),
        ('"type": "integer", "title": "Seconds', '"type": "int", "title": "Seconds'),
        ('"memory": "{{ memory }}" },', '"memory": "{{ memory }}" '),
    ],
)
def test_a_typo_in_the_pool_is_found(typo):
    with found():
        check_pool(spoiled(POOL, typo))


def test_the_automation_is_one():
    check_automation(ZOMBIES.read_text())


@pytest.mark.parametrize(
    "typo",
    [
        ("posture: Proactive", "posture: Reactive"),
        ("posture", "postures"),
        ("for_each", "for_every"),
        ("after: [prefect.flow-run.heartbeat]", "after: [prefect.flow-run.heart]"),
        ("flow-run.Completed", "flow-run.Complete"),
        ("change-flow-run-state", "change-flow-state"),
        ("state: CRASHED", "state: CRASH"),
        ("within: 90", "within: 10"),
        ("enabled", "enable"),
    ],
)
def test_a_typo_in_the_automation_is_found(typo):
    with found():
        check_automation(spoiled(ZOMBIES, typo))


FILE = INFRA / "prefect" / "prefect.yaml"
# Of prefect.yaml's schema, PrefectHQ/prefect at commit ce79dd3d6c (2026-08-21), Apache-2.0.
TOP = {"name", "prefect-version", "build", "push", "pull", "deployments", "definitions"}
DEPLOYMENT = {
    *("name", "version", "version_type", "tags", "description", "schedule", "schedules", "concurrency_limit", "sla"),
    *("flow_name", "entrypoint", "parameters", "enforce_parameter_schema", "work_pool", "triggers"),
    *("build", "push", "pull"),
}


def check_deployments(text: str) -> None:
    """Every key is known, entrypoints import, parameters fit them, and the pool is ours."""
    told = yaml.safe_load(text)
    assert told.keys() <= TOP, told.keys() - TOP
    assert told.get("prefect-version", PINS["prefect"]) == PINS["prefect"]
    for deployment in told["deployments"]:
        assert deployment.keys() <= DEPLOYMENT, deployment.keys() - DEPLOYMENT
        module, _, name = deployment["entrypoint"].replace(":", ".").rpartition(".")
        flow = getattr(import_module(module), name)
        assert isinstance(flow, Flow), deployment["entrypoint"]
        if parameters := deployment.get("parameters"):
            flow.validate_parameters(parameters)
        assert deployment["work_pool"]["name"] == "emo"


@pytest.fixture
def deployments():
    if not FILE.exists():
        pytest.skip("the flows are not in this release")
    return FILE.read_text()


def test_the_deployments_import(deployments):
    check_deployments(deployments)


@pytest.mark.parametrize(
    "typo", [("entrypoint", "entrypoints"), ("ingest.ingest", "ingest.ingests"), ("work_pool:", "workpool:")]
)
def test_a_typo_in_the_deployments_is_found(deployments, typo):
    with found():
        check_deployments(spoiled(FILE, typo))

"""The files for Ray's cluster launcher: unknown keys are refused at every level, and so is what would let others in."""

import json
import re

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.infra.files import INFRA, check_command, check_image, found, spoiled

FILES = [INFRA / "ray" / "aws.yaml", INFRA / "ray" / "gcp.yaml"]
POLICIES = [INFRA / "ray" / "aws-head.json", INFRA / "ray" / "aws-worker.json"]
BOTH = {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"}
PROVIDER = {"aws": BOTH | {"security_group", "key_pair"}, "gcp": BOTH | {"project_id"}}
"""What Ray's providers look for; its own schema lets everything pass there, and in a type of nodes."""
NODE = {"min_workers", "max_workers", "idle_timeout_s", "priority", "resources", "labels", "node_config", "docker"}


MACHINES = {"m7i.4xlarge": (16, 64), "g6e.12xlarge": (48, 384), "n2-standard-16": (16, 64), "a2-ultragpu-1g": (12, 170)}
"""Cores, GiB as their makers say."""


def strict(**properties) -> dict:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def each(item: dict) -> dict:
    return {"type": "array", "items": item}


# Of an instance of Compute Engine's API v1 (instances.insert) what is used here.
TEXT, NUMBER, YES = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
DISK = strict(boot=YES, autoDelete=YES, type=TEXT, initializeParams=strict(diskSizeGb=NUMBER, sourceImage=TEXT))
GCP_NODE = strict(
    machineType=TEXT,
    disks=each(DISK),
    guestAccelerators=each(strict(acceleratorType=TEXT, acceleratorCount=NUMBER)),
    metadata=strict(items=each(strict(key=TEXT, value=TEXT))),
    scheduling=strict(
        provisioningModel={"enum": ["STANDARD", "SPOT"]},
        instanceTerminationAction={"enum": ["DELETE", "STOP"]},
        onHostMaintenance={"enum": ["MIGRATE", "TERMINATE"]},
        automaticRestart=YES,
    ),
    serviceAccounts=each(strict(email=TEXT, scopes=each(TEXT))),
)


@pytest.fixture(scope="module")
def run_instances():
    """What Amazon's API takes to start machines, as its client knows it."""
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


@pytest.fixture(scope="module")
def check(run_instances):
    def check(text: str) -> None:
        told = yaml.safe_load(text)
        ready = prepare_config(told)
        validate_config(ready)
        kind = told["provider"]["type"]
        assert told["provider"].keys() <= PROVIDER[kind], f"provider: {told['provider'].keys() - PROVIDER[kind]}"
        check_image(told["docker"]["image"])
        check_told_to_ray(told)
        kinds = told["available_node_types"]
        assert kinds[told["head_node_type"]]["resources"] == {"CPU": 0}
        assert ready["max_workers"] >= sum(node.get("max_workers", 0) for node in kinds.values())
        assert 0 < ready["idle_timeout_minutes"] <= 15
        assert not any("GPU" in kinds[name]["resources"] for name in ("head", "cpu"))
        assert kinds["gpu-spot"]["resources"]["GPU"] > 0
        assert "ssh_private_key" not in told["auth"]
        for name, node in kinds.items():
            if name != "head":
                machine = node["node_config"].get("InstanceType") or node["node_config"]["machineType"]
                cores, memory = MACHINES[machine]
                assert node["resources"]["CPU"] == cores
                assert name != "cpu" or memory * 0.7 >= 2 * cores, "Ray keeps 0.3 for objects, each worker takes 2 GiB"
            assert node.keys() <= NODE, f"{name}: {node.keys() - NODE}"
            (check_aws if kind == "aws" else check_gcp)(name, node["node_config"], run_instances)

    return check


def check_told_to_ray(told: dict) -> None:
    """The same on every node: a token, time to stop; and a page that answers to the head alone."""
    options = told["docker"]["run_options"]
    for variable in ("RAY_AUTH_MODE=token", "RAY_JOB_STOP_WAIT_TIME_S=10"):
        assert f"--env {variable}" in options, variable
    (path,) = (option.partition("RAY_AUTH_TOKEN_PATH=")[2] for option in options if "RAY_AUTH_TOKEN_PATH=" in option)
    assert told["file_mounts"][path] == "~/.ray/auth_token"
    assert all(option.split()[0] in ("--ulimit", "--env") for option in options), options
    for kind in ("head", "worker"):
        start = told[f"{kind}_start_ray_commands"][-1]
        check_command(start.replace("$RAY_HEAD_IP", "10.0.0.1"))
        assert ("--dashboard-host=127.0.0.1" in start) == (kind == "head")
        assert ("--autoscaling-config=" in start) == (kind == "head")


def check_aws(name: str, node: dict, shape) -> None:
    report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
    assert not report.has_errors(), report.generate_report()
    newest = "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-"
    assert node["ImageId"].startswith(newest), "Ray's own choice has no driver for today's GPUs"
    profile = "open-emo-head" if name == "head" else "open-emo-worker"
    assert node["IamInstanceProfile"] == {"Name": profile}
    assert node["MetadataOptions"]["HttpTokens"] == "required"
    assert node["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    assert (market == "spot") == (name == "gpu-spot"), market


def check_gcp(name: str, node: dict, _shape) -> None:
    jsonschema.validate(node, GCP_NODE)
    image = node["disks"][0]["initializeParams"]["sourceImage"].rpartition("/")[2]
    assert int(image.partition("-nvidia-")[2]) >= 580, f"{image}: CUDA 13 needs a driver of 580 and later"
    if name != "head":  # Ray puts its own there
        (account,) = node["serviceAccounts"]
        assert account["email"].startswith("open-emo-worker@")
        assert account["scopes"] == ["https://www.googleapis.com/auth/devstorage.read_only"]
    model = node.get("scheduling", {}).get("provisioningModel")
    assert (model == "SPOT") == (name == "gpu-spot"), model


def check_policy(text: str) -> None:
    """No right but by its name; and only looking is not bound to what is named."""
    told = json.loads(text)
    assert told.keys() == {"Version", "Statement"} and told["Version"] == "2012-10-17"
    for statement in told["Statement"]:
        known = {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert statement.keys() <= known and statement["Effect"] == "Allow"
        for action in statement["Action"]:
            assert re.fullmatch(r"(ec2|iam|s3|ssm):[A-Z]\w+", action), action
            assert action in ACTIONS[action.split(":")[0]], f"there is no {action}"
        if statement["Resource"] == "*":  # Amazon knows no narrower one for these
            assert all(action.startswith("ec2:Describe") for action in statement["Action"])
        else:
            assert isinstance(statement["Resource"], list)
            assert all(re.match(r"arn:aws:\w+:[\w-]*:\w*:", resource) for resource in statement["Resource"])
            assert not {"arn:aws:s3:::*", "arn:aws:iam::ACCOUNT:role/*"} & set(statement["Resource"])
        free = "ec2:TerminateInstances" in statement["Action"] and "Condition" not in statement
        assert not free, "only machines of this cluster may be ended"


def operations(service: str) -> set[str]:
    names = botocore.session.get_session().get_service_model(service).operation_names
    return {f"{service}:{name}" for name in names}


ACTIONS = {
    "ec2": operations("ec2"),
    "iam": {"iam:PassRole"},  # a right, no call
    "ssm": operations("ssm"),
    "s3": operations("s3") | {"s3:ListBucket"},  # the right to ListObjects
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_would_launch_it(check, path):
    check(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "typo",
    [
        ("idle_timeout_minutes", "idle_timeout_minute"),
        ("idle_timeout_minutes: 10", "idle_timeout_minutes: 600"),
        ("head_node_type", "head_node_types"),
        ("available_node_types", "available_nodes_types"),
        ("availability_zone", "availability_zones"),
        ("cache_stopped_nodes", "cached_stopped_nodes"),
        ("ssh_user", "ssh_users"),
        ("run_options", "run_option"),
        ("min_workers", "least_workers"),
        ("CPU: 16", "CPU: sixteen"),
        ("CPU: 16", "CPU: 8"),
        ("--env RAY_AUTH_MODE=token", "--env RAY_AUTH_MODE=disabled"),
        ("--env RAY_JOB_STOP_WAIT_TIME_S=10", "--env RAY_JOB_STOP_WAIT_TIMES=10"),
        (".ray/auth_token: ~", ".ray/token: ~"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
        ("--autoscaling-config", "--autoscale-config"),
        ("--object-manager-port=8076\n", "--object-port=8076\n"),
        ("0.1.0-gpu", "latest"),
    ],
)
def test_a_typo_is_found(check, path, typo):
    with found():
        check(spoiled(path, typo))


@pytest.mark.parametrize(
    "typo",
    [
        ("InstanceType", "InstanceTypes"),
        ("MarketType: spot", "MarketTypes: spot"),
        ("InstanceType: m7i.4xlarge", "InstanceType: c7i.4xlarge"),
        ("VolumeSize: 200", "VolumeSize: large"),
        ("HttpTokens: required", "HttpTokens: optional"),
        ("Name: open-emo-worker", "Name: admin"),
        ("resolve:ssm:", "latest_dlami #"),
        ("ImageId: *image", "ImageId: latest_dlami"),
    ],
)
def test_a_typo_in_what_amazon_is_told_is_found(check, typo):
    with found():
        check(spoiled(FILES[0], typo))


@pytest.mark.parametrize(
    "typo",
    [
        ("machineType", "machineTypes"),
        ("provisioningModel: SPOT", "provisioningModel: SPOTS"),
        ("diskSizeGb: 200", "diskSizeGB: 200"),
        ("devstorage.read_only", "cloud-platform"),
        ("acceleratorCount: 1", "acceleratorCount: one"),
        ("common-cu129-ubuntu-2204-nvidia-580", "common-cpu"),
    ],
)
def test_a_typo_in_what_google_is_told_is_found(check, typo):
    with found():
        check(spoiled(FILES[1], typo))


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_machines_may_do_what_they_must_and_no_more(path):
    check_policy(path.read_text())


@pytest.mark.parametrize(
    "typo",
    [
        ("s3:GetObject", "s3:*"),
        ("s3:GetObject", "s3:GetObjects"),
        ("ec2:RunInstances", "ec2:Run*"),
        ("ssm:GetParameters", "ssm:GetAnyParameters"),
        ('["arn:aws:iam::ACCOUNT:role/open-emo-worker"]', '"*"'),
        ("role/open-emo-worker", "role/*"),
        ("ec2:CreateAction", '"ec2:CreateAction'),
        ('"Condition": {"StringEquals": {"ec2:ResourceTag', '"Conditions": {"StringEquals": {"ec2:ResourceTag'),
    ],
)
def test_a_typo_in_a_policy_is_found(typo):
    with found():
        check_policy(spoiled(POLICIES[0], typo))

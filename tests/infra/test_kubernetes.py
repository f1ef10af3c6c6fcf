"""The files for Kubernetes: every key is known, every name leads somewhere, and every pod is contained."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.infra.files import INFRA, PINS, SCHEMAS, check_command, check_image, documents, found, spoiled
from tests.infra.test_service import check_service

K8S = INFRA / "k8s"
BASE, JOBS, OVERLAYS = K8S / "base", K8S / "jobs", K8S / "overlays"
PARTS = sorted(path for path in BASE.glob("*.yaml") if path.name != "kustomization.yaml")
GROUPS = {
    **dict.fromkeys(("Namespace", "ConfigMap", "Service", "ServiceAccount", "PersistentVolumeClaim"), "v1"),
    **dict.fromkeys(("Role", "RoleBinding"), "rbac.authorization.k8s.io/v1"),
    **dict.fromkeys(("RayCluster", "RayJob", "RayService"), "ray.io/v1"),
    "Deployment": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
}
SHORT = {"RayCluster": "cluster", "RayJob": "job", "RayService": "service"}
FLAT = {"ConfigMap", "ServiceAccount", "Role", "RoleBinding", "Namespace"}
"""Kinds without a spec."""
SECRETS = {"emo-secrets", "emo-ray-token", "emo-flows", "emo-prefect"}
"""That are made by infra/k8s/secrets.sh, and the last by hand."""
OBSERVER = "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER"
"""What the settings of prefect-kubernetes' observer begin with."""
FULL = Path(__file__).parents[3] / "shared" / "schemas"


def definitions() -> dict:
    known: dict = {}
    for name in ("kuberay", "kubernetes"):
        known |= yaml.safe_load((SCHEMAS / f"{name}.yaml").read_text())["$defs"]
    return known


KNOWN = definitions()


def check_keys(resource: dict) -> None:
    """Against the reduced schemas: no key that they do not know, no value of another type."""
    kind = resource["kind"]
    assert resource["apiVersion"] == GROUPS[kind]
    body = {key: value for key, value in resource.items() if key not in ("apiVersion", "kind", "metadata")}
    validate(resource["metadata"], "metadata")
    assert kind in FLAT or body.keys() == {"spec"}, body.keys()
    validate(body if kind in FLAT else body["spec"], SHORT.get(kind, kind))


@cache
def validator(definition: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": KNOWN})


def validate(told: dict, definition: str) -> None:
    validator(definition).validate(told)


def pods(resource: dict) -> Iterator[dict]:
    """The pod templates of a resource."""
    spec = resource.get("spec", {})
    if resource["kind"] == "Deployment":
        yield spec["template"]
    cluster = spec.get("rayClusterConfig", spec if resource["kind"] == "RayCluster" else None)
    if cluster:
        yield cluster["headGroupSpec"]["template"]
        yield from (group["template"] for group in cluster["workerGroupSpecs"])


def check_pod(pod: dict, names: dict[str, set[str]]) -> None:
    """It is nobody, asks for what it needs, is asked how it is, and names what is there."""
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["serviceAccountName"] in names["ServiceAccount"], spec["serviceAccountName"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"] if "emptyDir" not in volume]
    assert set(claims) <= names["PersistentVolumeClaim"], claims
    for container in spec["containers"]:
        check_image(container["image"])
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        asked, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory"} <= asked.keys() and "memory" in limits
        assert asked.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")
        assert {"readinessProbe", "livenessProbe"} <= container.keys(), container["name"]
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}
        for source in container["envFrom"]:
            (kind, reference), *_ = source.items()
            assert reference["name"] in (names["ConfigMap"] if kind == "configMapRef" else SECRETS), reference
        assert not any(
            "value" in one and re.search("TOKEN|KEY|PASSWORD", one["name"]) for one in container.get("env", [])
        )


def check_cluster(cluster: dict) -> None:
    assert cluster["rayVersion"] == PINS["ray"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "emo-ray-token"}
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP", "nobody outside reaches a head"
    assert cluster["enableInTreeAutoscaling"] is True
    mounts = {one["mountPath"]: one["name"] for one in head["containers"][0]["volumeMounts"]}
    assert mounts["/tmp/ray"] == "ray-logs", "KubeRay's autoscaler beside the head writes there, too"
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        sources = group["template"]["spec"]["containers"][0]["envFrom"]
        assert {"configMapRef": {"name": "emo-settings"}} in sources, "RAY_JOB_STOP_WAIT_TIME_S is there"
        assert group.get("minReplicas", 0) <= group.get("maxReplicas", 0) or "serviceType" in group


def check_all(resources: list[dict]) -> None:
    """The resources of an overlay, or of the base, together."""
    names: dict[str, set[str]] = {}
    for resource in resources:
        check_keys(resource)
        names.setdefault(resource["kind"], set()).add(resource["metadata"]["name"])
    labels: list[dict[str, str]] = []
    for resource in resources:
        spec = resource.get("spec", {})
        for pod in pods(resource):
            check_pod(pod, names)
            labels.append(pod.get("metadata", {}).get("labels", {}))
        match resource["kind"]:
            case "RayCluster":
                check_cluster(spec)
                assert spec["upgradeStrategy"] == {"type": "Recreate"}, "a new image reaches pods that are there"
            case "RayService":
                check_cluster(spec["rayClusterConfig"])
                assert "upgradeStrategy" not in spec["rayClusterConfig"], "KubeRay refuses it there"
                check_serving(spec)
            case "ConfigMap":
                assert resource["data"]["RAY_JOB_STOP_WAIT_TIME_S"] == "10"
                assert not [name for name in resource["data"] if re.search("TOKEN|SECRET|PASSWORD|KEY", name)]
            case "Deployment":
                (worker,) = spec["template"]["spec"]["containers"]
                seen = {one["name"]: one["value"] for one in worker["env"]}
                assert seen[f"{OBSERVER}_NAMESPACES"] == "emo", "its role ends at this namespace"
            case "Role":
                words = [word for rule in resource["rules"] for list_ in rule.values() for word in list_]
                assert "*" not in words and "secrets" not in words
            case "RoleBinding":
                assert resource["roleRef"]["name"] in names["Role"]
                assert {subject["name"] for subject in resource["subjects"]} <= names["ServiceAccount"]
    for resource in resources:
        if resource["kind"] == "Service":
            check_front(resource["spec"], labels, resources)
    for budget in (resource["spec"] for resource in resources if resource["kind"] == "PodDisruptionBudget"):
        wanted = budget["selector"]["matchLabels"].items()
        assert any(wanted <= known.items() for known in labels), f"no pod is {wanted}"
        assert isinstance(budget["minAvailable"], int), "all that Kubernetes can do for pods of KubeRay"
    closed = [one["spec"] for one in resources if one["kind"] == "NetworkPolicy" and one["spec"]["podSelector"] == {}]
    assert closed and all("ingress" not in spec and "Ingress" in spec["policyTypes"] for spec in closed)


def check_front(spec: dict, labels: list[dict[str, str]], resources: list[dict]) -> None:
    """It leads to the one kind of pods in which the proxy of Serve is, once KubeRay has seen it answer."""
    told = spec["selector"].items() - {("ray.io/serve", "true")}  # KubeRay's, of heads that answer and of all workers
    assert len(told) == len(spec["selector"]) - 1
    (front,) = (known for known in labels if told <= known.items())
    assert front["emo/part"] == "front"
    (port,) = spec["ports"]
    (service,) = (one["spec"] for one in resources if one["kind"] == "RayService")
    assert port["targetPort"] == yaml.safe_load(service["serveConfigV2"])["http_options"]["port"]
    policies = {one["metadata"]["name"]: one["spec"] for one in resources if one["kind"] == "NetworkPolicy"}
    way = policies["service"]
    assert way["podSelector"]["matchLabels"].items() <= front.items()
    assert way["ingress"][0]["ports"] == [{"port": port["targetPort"], "protocol": "TCP"}]


def check_serving(spec: dict) -> None:
    """As `infra/serve/service.yaml`, but for the front's host: here the network policy says who comes to it."""
    settings = check_service(spec["serveConfigV2"])
    mounts = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert any(settings.folder.startswith(mount["mountPath"] + "/") for mount in mounts)
    assert not settings.open_to_all
    (makers,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    gpu = "nvidia.com/gpu" in makers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert gpu == (settings.device != "cpu"), "makers compute on what their pods have"


def check_job(job: dict) -> None:
    check_keys(job)
    check_command(job["spec"]["entrypoint"])
    assert "--address auto" in job["spec"]["entrypoint"], "it works on the cluster that it is in"
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "emo"}
    assert job["metadata"]["namespace"] == "emo"
    assert len(job["metadata"]["generateName"]) < 40
    for key in ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"):
        assert key not in job["spec"], f"KubeRay refuses {key} where the cluster is chosen"


def base(changed: tuple[Path, str] | None = None) -> list[dict]:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in PARTS], "kustomization.yaml names what is there"
    texts = [changed[1] if changed and path == changed[0] else path.read_text() for path in PARTS]
    return [resource for text in texts for resource in documents(text)]


def test_every_resource_is_known_and_fits_the_others():
    check_all(base())


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_jobs_do_what_commands_can(path):
    (job,) = documents(path.read_text())
    check_job(job)


@pytest.mark.parametrize(
    ("file", "typo"),
    [
        ("ray-cluster", ("rayVersion: 2", "rayVersion: 1")),
        ("ray-cluster", ("mode: token", "mode: tokens")),
        ("ray-cluster", ("secretName", "secretNames")),
        ("ray-cluster", ("enableInTreeAutoscaling", "enableInTreeAutoScaling")),
        ("ray-cluster", ("maxReplicas", "maxReplica")),
        ("ray-cluster", ("type: Recreate", "type: Renew")),
        ("ray-service", ("rayVersion: 2.60.0", "rayVersion: 2.60.0\n    upgradeStrategy: {type: Recreate}")),
        ("ray-cluster", ("replicas: 0", "replicas: none")),
        ("ray-cluster", ("serviceType: ClusterIP", "serviceType: LoadBalancer")),
        ("ray-cluster", ("memory: 24Gi", "memory: 24 GB")),
        ("ray-cluster", ("readinessProbe", "readynessProbe")),
        ("ray-cluster", ("failureThreshold", "failuresThreshold")),
        ("ray-cluster", ("runAsNonRoot: true", "runAsNonRoot: false")),
        ("ray-cluster", ("serviceAccountName: emo\n", "serviceAccountName: admin\n")),
        ("ray-cluster", ("claimName: emo-weights", "claimName: emo-weight")),
        ("ray-cluster", ("name: emo-settings", "name: emo-setting")),
        ("ray-cluster", ("0.1.0-cpu", "0.0.9-cpu")),
        ("ray-cluster", ("name: shm, mountPath", "name: shn, mountPath")),
        ("ray-service", ("serveConfigV2: |", "serveConfig: |")),
        ("ray-service", ("most_makers", "max_makers")),
        ("ray-service", ("import_path", "import_paths")),
        ("ray-service", ("device: cpu", "device: cuda")),
        ("ray-service", ("folder: /shared/", "folder: /share/")),
        ("ray-service", ("upgradeStrategy:\n    type", "upgradeStrategy:\n    kind")),
        ("prefect-worker", ("3.8.8-", "3.8.7-")),
        ("prefect-worker", ("httpGet", "httpget")),
        ("prefect-worker", ("replicas: 1", "replica: 1")),
        ("prefect-worker", ("OBSERVER_NAMESPACES, value: emo", "OBSERVER_NAMESPACES, value: default")),
        ("ray-service", ("selector: {emo/part: front", "selector: {emo/part: maker")),
        ("ray-service", ('front, ray.io/serve: "true"', "front")),
        ("ray-service", ("targetPort: 8000", "targetPort: 8080")),
        ("ray-service", ("ports:\n    - {name", "port:\n    - {name")),
        ("ray-cluster", ("name: ray-logs, mountPath", "name: ray-log, mountPath")),
        ("network", ("matchLabels:\n      emo/part: front", "matchLabels:\n      emo/part: maker")),
        ("accounts", ("verbs: [get, list, watch]", 'verbs: ["*"]')),
        ("accounts", ("resources: [jobs]", "resources: [jobs, secrets]")),
        ("accounts", ("    name: emo-prefect-worker\n    namespace", "    name: emo-worker\n    namespace")),
        ("network", ("policyTypes: [Ingress, Egress]", "policyTypes: [Egress]")),
        ("network", ("podSelector: {}", "podSelectors: {}")),
        ("network", ("protocol: UDP", "protocol: udp")),
        ("disruption", ("emo/part: maker", "emo/part: makers")),
        ("disruption", ("minAvailable: 1", "minAvailable: 50%")),
        ("settings", ('RAY_JOB_STOP_WAIT_TIME_S: "10"', 'RAY_JOB_STOP_WAIT_TIME_S: "3"')),
        ("settings", ('"10"', "10")),
        ("storage", ("ReadWriteMany", "ReadWriteAll")),
        ("kustomization", ("network.yaml", "networks.yaml")),
    ],
)
def test_a_typo_is_found(file, typo, monkeypatch, tmp_path):
    path = BASE / f"{file}.yaml"
    text = spoiled(path, typo)
    if file == "kustomization":
        (tmp_path / path.name).write_text(text)
        monkeypatch.setattr("tests.infra.test_kubernetes.BASE", tmp_path)
    with found():
        check_all(base((path, text)))


@pytest.mark.parametrize(
    "typo",
    [
        ("entrypoint", "entrypoints"),
        ("emo train", "emo trains"),
        ("--cache-latents", "--cached-latents"),
        ("--address auto", "--address local"),
        ("ray.io/cluster: emo", "ray.io/cluster: emos"),
        ("submissionMode", "submitMode"),
        ("activeDeadlineSeconds: ", "activeDeadlineSeconds: a"),
        ("activeDeadlineSeconds", "ttlSecondsAfterFinished"),
        ("ray.io/v1", "ray.io/v2"),
    ],
)
def test_a_typo_in_a_job_is_found(typo):
    with found():
        check_job(yaml.safe_load(spoiled(JOBS / "train-1.yaml", typo)))


def built(folder: Path) -> list[dict]:
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl here, which brings kustomize")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


@pytest.mark.parametrize("overlay", ["dev", "gpu"])
def test_an_overlay_is_whole(overlay):
    resources = built(OVERLAYS / overlay)
    check_all(resources)
    cluster, service = (
        next(one["spec"] for one in resources if one["kind"] == kind) for kind in ("RayCluster", "RayService")
    )
    images = {container["image"] for one in resources for pod in pods(one) for container in pod["spec"]["containers"]}
    assert len([image for image in images if "open-emo" in image]) == 1, "nodes of a cluster must be alike"
    gpus = [group for group in cluster["workerGroupSpecs"] if "gpu" in group["groupName"]]
    assert bool(gpus) == (overlay == "gpu")
    for group in gpus:
        keys = {toleration["key"] for toleration in group["template"]["spec"]["tolerations"]}
        assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= keys
        assert group["minReplicas"] == 0
    most = check_service(service["serveConfigV2"]).most_makers
    assert overlay == "dev" or service["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"] >= most


@pytest.mark.parametrize(
    ("file", "typo"),
    [
        ("gpu/training.yaml", ("tolerations", "toleration")),
        ("gpu/training.yaml", ('nvidia.com/gpu: "1"', 'nvidia.com/gpu: "2"')),
        ("gpu/training.yaml", ("path: /spec/workerGroupSpecs/-", "path: /spec/workerGroups/-")),
        ("gpu/makers.yaml", ("device: cuda", "device: cpu")),
        ("gpu/makers.yaml", ("/serveConfigV2", "/serveConfigV3")),
        ("gpu/kustomization.yaml", ("0.1.0-gpu", "latest")),
        ("gpu/kustomization.yaml", ("patches:", "patch:")),
        ("dev/small.yaml", ("/spec/headGroupSpec", "/spec/headGroup")),
    ],
)
def test_a_typo_in_an_overlay_is_found(file, typo, tmp_path):
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "k8s/overlays" / file).write_text(spoiled(OVERLAYS / file, typo))
    with found():
        check_all(built((tmp_path / "k8s/overlays" / file).parent))


# The schemas themselves: where the complete definitions lie beside the checkout, the reduced ones are held to them.


def strict(schema):
    """Unknown keys are refused wherever the definition names the known ones."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {key: strict(value) for key, value in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not free:
        result["additionalProperties"] = False
    return result


@pytest.fixture(scope="module")
def full():
    if not FULL.is_dir():
        pytest.skip(f"no complete definitions in {FULL}")

    def of(kind: str) -> dict:
        (definition,) = documents((FULL / f"ray.io_{kind.lower()}s.yaml").read_text())
        version = next(one for one in definition["spec"]["versions"] if one["name"] == "v1")
        return strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])

    return {kind: of(kind) for kind in SHORT}


def test_the_complete_definitions_say_the_same(full):
    resources = base() + [job for path in JOBS.glob("*.yaml") for job in documents(path.read_text())]
    ours = [one for one in resources if one["kind"] in SHORT]
    assert {one["kind"] for one in ours} == set(SHORT)
    for one in ours:
        jsonschema.Draft202012Validator(full[one["kind"]]).validate(one["spec"])


def test_the_reduced_schema_knows_nothing_that_the_complete_does_not(full):
    def compare(small: dict, large: dict, where: str) -> None:
        small = KNOWN[small["$ref"].rpartition("/")[2]] if "$ref" in small else small
        if where.endswith(".metadata"):
            return  # of a pod: nobody's but Kubernetes'
        for name, inner in small.get("properties", {}).items():
            assert name in large["properties"], f"{where}.{name}"
            compare(inner, large["properties"][name], f"{where}.{name}")
        if "items" in small and "items" in large:
            compare(small["items"], large["items"], f"{where}[]")

    for kind, name in SHORT.items():
        compare(KNOWN[name], full[kind], name)

"""The cluster by compose: keys that compose knows, ports of the loopback, no secret, commands that exist."""

import re
import shutil
import subprocess

import jsonschema
import pytest
import yaml

from tests.infra.files import INFRA, SCHEMAS, check_command, check_image, found, spoiled

COMPOSE, GPU, SECRETS = INFRA / "compose.yaml", INFRA / "compose.gpu.yaml", INFRA / "secrets.example.env"
KNOWN = jsonschema.Draft202012Validator(yaml.safe_load((SCHEMAS / "compose.yaml").read_text()))
DEFAULTS = {"TORCH_INDEX", "WEIGHTS", "MODEL"}
"""Variables that may be unset."""


def secret_names() -> set[str]:
    return {line.split("=")[0] for line in SECRETS.read_text().splitlines() if "=" in line and line[0] != "#"}


def check_compose(text: str) -> None:
    told = yaml.safe_load(text)
    KNOWN.validate(told)
    services, volumes = told["services"], told.get("volumes", {})
    for name, service in services.items():
        check_image(service["image"])
        assert "build" not in service or service["image"].endswith(service["build"]["target"])
        for variable, value in service.get("environment", {}).items():
            assert ":?" in value or not SECRET.search(variable), f"{name}: {variable} is for secrets.env to say"
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port), f"{name}: {port} is not the loopback's"
        for other, how in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other]
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{[^}]*\}", "./", volume).split(":")[0]
            assert source.startswith("./") or source in volumes, f"{name}: {source}"
        if service.get("user") == "root":  # the home of `ray`, with Python in it, is closed to others
            assert set(service["cap_add"]) == {"CHOWN", "DAC_OVERRIDE"}, f"{name}: {service['cap_add']}"
        else:
            assert "cap_add" not in service, f"{name}: needs no right of root"
        command = service.get("command", "")
        if isinstance(command, str) and command.startswith(("emo ", "ray ")):
            check_command(re.sub(r"\$\{[^}]*\}", "x", command))
        health = service.get("healthcheck", {}).get("test", ["CMD", "python"])
        assert health[0] == "CMD"
        if health[1] == "ray":
            check_command(health[1:])
        if re.match(r"ray |emo (flows|serve)", str(command)):
            check_ray(name, service["environment"])
    variables = re.findall(r"\$\{(\w+)(:[?-])?", text)
    for variable, how in variables:
        assert variable in (secret_names() if how == ":?" else DEFAULTS), f"{variable}{how}"
    assert {variable for variable, how in variables if how == ":?"} == secret_names()


SECRET = re.compile(r"PASSWORD|TOKEN$|ACCESS_KEY|AUTH_STRING|CONNECTION_URL")


def check_ray(name: str, environment: dict[str, str]) -> None:
    """As every node of every cluster of ours has it."""
    assert environment["RAY_AUTH_MODE"] == "token", name
    assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?"), name
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "10", name


def check_gpu(text: str) -> None:
    told, under = yaml.safe_load(text), yaml.safe_load(COMPOSE.read_text())["services"]
    KNOWN.validate(told)
    for name, service in told["services"].items():
        assert name in under and service.keys() <= {"image", "build", "deploy"}
        check_image(service["image"])
        assert service["build"] == {"target": "gpu"} and service["image"].endswith("-gpu")
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_compose_says_what_compose_knows():
    check_compose(COMPOSE.read_text())
    check_gpu(GPU.read_text())


@pytest.mark.parametrize(
    "typo",
    [
        ("healthcheck:", "healtcheck:"),
        ("start_period", "start_periods"),
        ("127.0.0.1:4200:4200", "4200:4200"),
        ("127.0.0.1:8265:8265", "0.0.0.0:8265:8265"),
        ("${POSTGRES_PASSWORD:?}", "secret"),
        ("${EMO_TOKEN:?}", "${EMO_TOKENS:?}"),
        ("RAY_AUTH_MODE: token", "RAY_AUTH_MODE: disabled"),
        ('STOP_WAIT_TIME_S: "10"', 'STOP_WAIT_TIME_S: "3"'),
        ("${RAY_AUTH_TOKEN:?", "${RAY_AUTH_TOKEN:-"),
        ("service_completed_successfully", "service_completed"),
        ("store: {condition", "stores: {condition"),
        ("open-emo:0.1.0-cpu", "open-emo:latest"),
        ("postgres:17.6", "postgres"),
        ("--dashboard-host", "--dashboards-host"),
        ("emo serve --model", "emo serve --models"),
        ('"shared:/shared"', '"shard:/shared"'),
        ("target: board", "target: boards"),
        (", DAC_OVERRIDE]", "]"),
        ("services:", "service:"),
        ("init: true", "init: on-start"),
        ("retries: 12", "retries: twelve"),
        ("interval: 5s", "interval: 5"),
        ("shm_size: 1gb", "shm_size: 1 GB"),
        ('"30"', "30"),
        ("unless-stopped", "unless-stop"),
        ("TORCH_INDEX:", "- TORCH_INDEX:"),
        ("name: emo", "name: Emo cluster"),
    ],
)
def test_a_typo_in_compose_is_found(typo):
    with found():
        check_compose(spoiled(COMPOSE, typo))


@pytest.mark.parametrize(
    "typo",
    [("ray-worker", "ray-workers"), ("target: gpu", "target: cpu"), ("[gpu]", "[gpus]"), ("devices:", "device:")],
)
def test_a_typo_in_the_gpu_file_is_found(typo):
    with found():
        check_gpu(spoiled(GPU, typo))


def client() -> list[str]:
    """Docker's compose, or the older program of its own."""
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


@pytest.fixture
def config(tmp_path):
    """(return code, what compose makes of the files) of the text of compose.yaml."""
    command = client()
    if not command:
        pytest.skip("no docker compose here")
    secrets = tmp_path / "secrets.env"
    secrets.write_text("".join(f"{name}=x\n" for name in secret_names()))

    def run(text: str) -> tuple[int, str]:
        if command == ["docker-compose"]:
            text = text.replace("name: emo\n", "")  # which it does not know yet
        file = tmp_path / "compose.yaml"
        file.write_text(text)
        files = ["--env-file", str(secrets), "-f", str(file), "-f", str(GPU)]
        done = subprocess.run([*command, *files, "config"], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return run


def test_compose_itself_understands_it(config):
    code, out = config(COMPOSE.read_text())
    assert code == 0, out
    told = yaml.safe_load(out)["services"]
    assert told["ray-worker"]["image"].endswith("-gpu") and told["ray-head"]["image"].endswith("-cpu")
    assert config(spoiled(COMPOSE, ("healthcheck:", "healtcheck:")))[0] != 0

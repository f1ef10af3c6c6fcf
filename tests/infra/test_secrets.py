"""No secret is written down, none gets into git or the image, and each is made at random where it is needed."""

import os
import re
import shutil
import stat
import subprocess

import pytest

from tests.infra.files import INFRA, ROOT

TEXTS = sorted(path for path in INFRA.rglob("*") if path.is_file() and not path.name.startswith("secrets.env"))
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|\b[0-9a-f]{32,}\b|eyJ[\w-]{20,}|gh[pousr]_\w{20,}"
    r"|(?i:(?:password|passwd|secret_access_key|auth_token|emo_token)[ \t]*[:=][ \t]*[\"']?[a-z0-9][a-z0-9/+]{5,})"
)
OPEN = re.compile(r"(?:--host|dashboard-host[=:]?|host:)[ =]*(?:0\.0\.0\.0|::)")
ALLOWED = {
    "infra/compose.yaml": "of a container, whose ports compose publishes on the loopback",
    "infra/k8s/base/ray-cluster.yaml": "of a pod, behind network.yaml",
    "infra/k8s/base/ray-service.yaml": "of a pod, behind network.yaml",
    "infra/k8s/overlays/gpu/makers.yaml": "of a pod, behind network.yaml",
}
"""Where something listens to others than its own machine, and why that is none of anybody else's."""


def test_no_secret_is_written_down():
    assert [path for path in TEXTS if SECRET.search(path.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        "key: AKIA" + "A" * 16,
        "-----BEGIN KEY",
        "token: " + "0a" * 16,
        "POSTGRES_PASSWORD: hunter22",
        "auth_token=abcdef1",
    ],
)
def test_a_secret_is_found(line):
    assert SECRET.search(line)


def test_nothing_listens_to_others_but_within_a_container():
    found = {path.relative_to(ROOT).as_posix() for path in TEXTS if OPEN.search(path.read_text())}
    assert found == ALLOWED.keys()
    assert OPEN.search("ray start --head --dashboard-host=0.0.0.0") and OPEN.search("host: 0.0.0.0")


@pytest.fixture
def infra(tmp_path):
    for name in ("secrets.sh", "secrets.example.env"):
        shutil.copy(INFRA / name, tmp_path)
    return tmp_path


def make(infra) -> dict[str, str]:
    subprocess.run(["sh", infra / "secrets.sh"], check=True, capture_output=True, timeout=60)
    lines = (infra / "secrets.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_secrets_are_made_at_random_and_for_their_owner_alone(infra):
    first = make(infra)
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in first.values())
    assert len(set(first.values())) == len(first) >= 6
    assert stat.S_IMODE(os.stat(infra / "secrets.env").st_mode) == 0o600
    assert make(infra) == first, "those that are there stay"
    (infra / "secrets.env").unlink()
    assert make(infra) != first


def test_what_is_filled_in_stays(infra):
    example = (infra / "secrets.example.env").read_text()
    (infra / "secrets.example.env").write_text(example.replace("AWS_ACCESS_KEY_ID=", "AWS_ACCESS_KEY_ID=mine"))
    assert make(infra)["AWS_ACCESS_KEY_ID"] == "mine"


def test_everybody_gets_of_them_what_he_needs(infra, tmp_path):
    told = make(infra)
    (infra / "k8s").mkdir()
    shutil.copy(INFRA / "k8s" / "secrets.sh", infra / "k8s")
    log = tmp_path / "kubectl.txt"
    client = tmp_path / "kubectl"  # in the client's place: what is it given, and how
    client.write_text(f'#!/bin/sh\ntest "$3" != create || {{ echo "@$*"; cat; echo; }} >>{log}\n')
    client.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["sh", infra / "k8s" / "secrets.sh"], env=env, check=True, capture_output=True, timeout=60)
    made = {}
    for one in log.read_text().split("@")[1:]:
        words, _, given = one.partition("\n")
        assert not [value for value in told.values() if value in words], "a list of processes shows them"
        name, source = re.fullmatch(r"-n emo create secret generic (\S+) --(\S+)=/dev/stdin .*", words).groups()
        made[name, source] = given.split()
    keys = ("EMO_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert made == {
        ("emo-secrets", "from-env-file"): [f"{key}={told[key]}" for key in keys],
        ("emo-flows", "from-env-file"): [f"RAY_AUTH_TOKEN={told['RAY_AUTH_TOKEN']}"],
        ("emo-ray-token", "from-file=auth_token"): [told["RAY_AUTH_TOKEN"]],
    }


def test_git_does_not_take_them():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git here")
    command = ["git", "check-ignore", "infra/secrets.env", "infra/secrets.env.part", "infra/secrets.example.env"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["infra/secrets.env", "infra/secrets.env.part"]


@pytest.mark.parametrize("path", sorted(INFRA.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_scripts(path):
    shell = path.read_text().splitlines()[0].split("/")[-1].split()[-1]
    assert os.access(path, os.X_OK)
    subprocess.run([shell, "-n", path], check=True, timeout=60)

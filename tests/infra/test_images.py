"""The image: its versions are ours, it is built as `make setup` builds, and nothing gets in by chance."""

import re
import shlex
from itertools import pairwise

import pytest

from tests.infra.files import INFRA, PINS, PROJECT, ROOT, found, spoiled

DOCKERFILE = INFRA / "docker" / "Dockerfile"
KNOWN = {"ARG", "FROM", "USER", "RUN", "WORKDIR", "COPY", "CMD"}


def stages(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(what is set before the first stage, instructions of each stage; the first says what it is made from)."""
    lines = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    given, found = {}, {}
    for line in filter(None, map(str.strip, lines.splitlines())):
        word, _, rest = line.partition(" ")
        assert word in KNOWN, f"{word}: no instruction that we use"
        if word == "ARG" and not found:
            name, _, given[name] = rest.partition("=")
        elif word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = [base]
        else:
            found[list(found)[-1]].append(line)
    return given, found


def pip_words(command: str) -> list[str]:
    """Of an installation by pip, without what is about this image or that environment only."""
    words = shlex.split(command.replace("$$", "$").partition("pip install ")[2].partition("&&")[0])
    return [word for word in words if word not in ("--no-cache-dir", "--editable", ".", ".[dev]")]


def check_dockerfile(text: str) -> None:
    given, found = stages(text)
    assert given["RAY"] == PINS["ray"]
    minor = re.fullmatch(r"py3(\d\d)", given["PYTHON"])
    assert minor and f"3.{minor[1]}" in ("3.11", "3.12"), PROJECT["requires-python"]
    for target in ("cpu", "gpu"):
        base, *instructions = found[target]
        assert base == f"rayproject/ray:${{RAY}}-${{PYTHON}}-{target}"
        assert instructions == found["cpu"][1:], "the two targets differ in more than where they start"
        (pip,) = (line for line in instructions if "pip install" in line)
        makefile = (ROOT / "Makefile").read_text().replace("\\\n\t\t", "")
        (made,) = (line for line in makefile.splitlines() if "pip install" in line)
        assert pip_words(pip) == pip_words(made), "make setup installs otherwise"
        modules = pip.partition('python -c "')[2].partition('"')[0]
        assert "import cv2" in modules, "whether MediaPipe's libraries are there is tried when it is built"
        compile(modules, target, "exec")
    (pip,) = (line for line in found["board"] if "pip install" in line)
    assert re.search(r"--constraint \S+/constraints\.txt ", pip)
    assert '"setuptools<81"' in pip, "TensorBoard needs their pkg_resources"
    for name, (_, *instructions) in found.items():
        users = [line.split()[1] for line in instructions if line.startswith("USER")]
        assert users[-1] == "ray", f"{name} ends as {users[-1]}"
        copies = [line for line in instructions if line.startswith("COPY")]
        assert copies in ([], ["COPY . ."]), "what is copied is said by .dockerignore"


def check_ignored(text: str) -> None:
    """.dockerignore lets in what the package is built from, by name."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "everything is left out"
    allowed = [line.removeprefix("!") for line in lines[1:] if line.startswith("!")]
    assert lines[1:] == [*(f"!{name}" for name in allowed), "**/__pycache__"]
    needed = {"emo_core", "emo_data", "flows", "pyproject.toml", "constraints.txt", PROJECT["readme"]}
    assert set(allowed) == needed | set(PROJECT["license-files"])


def test_the_image_is_built_of_the_versions_that_we_know():
    check_dockerfile(DOCKERFILE.read_text())


@pytest.mark.parametrize(
    "typo",
    [
        ("RAY=2", "RAY=1"),
        ("py311", "py310"),
        ("${RAY}-${PYTHON}-gpu", "latest-gpu"),
        ("FROM rayproject", "FORM rayproject"),
        ("RUN apt-get", "RUNS apt-get"),
        ("libgl1", "libgl2"),
        ("--constraint constraints.txt", "--constraint constraint.txt"),
        ("USER ray", "USER root"),
        ("USER ray\nWORKDIR", "WORKDIR"),
        ("COPY . .", "COPY weights ."),
        ("import cv2", "imports cv2"),
        ('"setuptools<81"', "setuptools"),
    ],
)
def test_a_typo_in_the_dockerfile_is_found(typo):
    with found():
        check_dockerfile(spoiled(DOCKERFILE, typo))


def test_only_the_code_gets_into_the_image():
    check_ignored((ROOT / ".dockerignore").read_text())


@pytest.mark.parametrize("typo", [("*\n", "\n"), ("!flows", "!flow"), ("!LICENSE", "!infra"), ("**/", "!**/")])
def test_a_typo_in_dockerignore_is_found(typo):
    with found():
        check_ignored(spoiled(ROOT / ".dockerignore", typo))


def test_the_lines_that_build_it_name_this_release():
    lines = re.findall(r"--target (\w+) -t open-emo:(\S+) \.", DOCKERFILE.read_text())
    assert [target for target, _ in lines] == ["cpu", "gpu"]
    assert all(tag == f"{PROJECT['version']}-{target}" for target, tag in lines)
    assert not any(a == b for a, b in pairwise(lines))

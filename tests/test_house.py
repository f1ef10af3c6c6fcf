"""The house rules hold, and breaking one is noticed."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("emo_core", "emo_data", "flows")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the packages that a test may break."""
    copy = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def lint_imports(house):
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"]
    done = subprocess.run(
        command, cwd=house, env={**os.environ, "PYTHONPATH": str(house)}, capture_output=True, text=True
    )
    return done.returncode, done.stdout


def test_import_contracts_hold(house):
    code, out = lint_imports(house)
    assert code == 0, out


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("emo_data/schema.py", "import emo_core.model", "One staircase"),
        ("emo_core/diffusion.py", "import flows.cli", "One staircase"),
        ("emo_data/video.py", "import emo_data.features.audio", "Rooms of emo_data"),
        ("emo_core/inference/broken.py", "import emo_core.training.loop", "Rooms of emo_core"),
        ("flows/progress.py", "import flows.cli", "Rooms of flows"),
        ("emo_core/training/broken.py", "import emo_data.ingest", "front doors"),
        ("emo_core/model/broken.py", "import emo_data.schema", "pure torch"),
        ("emo_core/diffusion.py", "import emo_data.schema", "pure torch"),
        ("emo_data/ingest/broken.py", "import ray", "Ray only behind on_ray.py"),
        ("emo_core/training/broken.py", "import prefect", "Prefect only in flows"),
        ("flows/cli.py", "import ray.data", "Flows reach Ray"),
        ("emo_core/utils.py", "", "Rooms of emo_core"),
        ("emo_data/helpers.py", "", "Rooms of emo_data"),
        ("flows/common.py", "", "Rooms of flows"),
    ],
)
def test_a_broken_import_contract_is_noticed(house, module, line, contract):
    file = house / module
    before = file.read_text() if file.exists() else None
    file.write_text(f"{before or ''}\n{line}\n")
    try:
        code, out = lint_imports(house)
    finally:
        file.unlink() if before is None else file.write_text(before)
    assert code != 0
    assert any(contract in row and "BROKEN" in row for row in out.splitlines())


def test_ray_is_welcome_behind_its_door(house):
    door = house / "emo_data/ingest/on_ray.py"
    door.write_text("import ray\n")
    try:
        code, out = lint_imports(house)
    finally:
        door.unlink()
    assert code == 0, out


def readme_tree():
    """Paths of the annotated tree in the README: its code block that names emo_data/, two spaces per level."""
    text = (ROOT / "README.md").read_text()
    block = next(block for block in text.split("```")[1::2] if re.search(r"^emo_data/", block, re.M))
    paths, folders = set(), []
    for line in block.splitlines()[1:]:
        if match := re.match(r"( *)(\S+)", line):
            depth = len(match[1]) // 2
            name = match[2]
            paths.add("".join([*folders[:depth], name]))
            if name.endswith("/"):
                folders[depth:] = [name]
    return paths


def test_the_readme_shows_the_house_as_it_is():
    shown = readme_tree()
    real = {path.relative_to(ROOT).as_posix() for path in SOURCES if path.name != "__init__.py"}
    assert {path for path in shown if path.endswith(".py") and path.startswith(PACKAGES)} == real
    assert [path for path in shown if not (ROOT / path).exists() and not path.startswith("build/")] == []


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_constraints_are_plain_exact_pins():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []


def test_constraints_meet_what_the_project_asks_for():
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_the_prefect_server_starts_with_these_versions(tmp_path):
    offline = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    script = "from prefect.server.api.server import create_app; assert create_app().routes"
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **offline}, check=True, timeout=120)


def faults(source):
    """What the house does not allow in a line of its code."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)) if re.fullmatch(r"cuda(:\d+)?", text):
                yield f"line {node.lineno}: a device is chosen by an option, not by a literal"
            case ast.Call(func=function) if not (isinstance(function, ast.Name) and function.id == "zip"):
                if any(k.arg == "strict" and getattr(k.value, "value", None) is False for k in node.keywords):
                    yield f"line {node.lineno}: strict=False"
            case ast.ExceptHandler(body=body):
                if all(isinstance(step, ast.Pass | ast.Continue) for step in body) and broad(node.type):
                    yield f"line {node.lineno}: an exception is swallowed"


def broad(caught):
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_forbidden_habits(path):
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "model.to('cuda')",
        "device = 'cuda:1'",
        "model.load_state_dict(state, strict=False)",
        "try:\n    work()\nexcept Exception:\n    pass",
        "while True:\n    try:\n        work()\n    except:\n        continue",
    ],
)
def test_forbidden_habits_are_noticed(source):
    assert len(list(faults(source))) == 1


MACHINE_PATH = re.compile(r"(?<![\w.])/(root|home|Users|work|opt|mnt)/\w")


def test_no_path_of_one_machine_is_written_down():
    texts = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", "constraints.txt")]
    texts += [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / ".ci/run"]
    assert [path for path in texts if MACHINE_PATH.search(path.read_text())] == []
    assert MACHINE_PATH.search("data = '/ho" + "me/someone/clips'")


def test_every_picture_of_the_readme_is_there():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_the_figures_of_the_readme_are_those_that_were_measured():
    figures = json.loads((ROOT / "docs/bench_model.json").read_text())
    words = {"step_tflop": "{:.2f} TFLOP", "baseline_step_tflop": "{:.2f} TFLOP", "flops_over_minimum": "{:.5f}"}
    told = [form.format(figures[key]) for key, form in words.items()]
    told += [
        f"{figures[key] / 1024:.1f} GiB" for key in figures if key == "weights_mib" or key.startswith("counted_peak")
    ]
    told += [f"{figures['clip_tflop'] / 1000:.2f} PFLOP"]
    seconds = f"{figures['seconds_per_step']:.1f} | {figures['baseline_seconds_per_step']:.1f}"
    ratios = f"{figures['step_over_baseline']:.2f} | {figures['step_over_floor']:.2f}"
    told += [f"| {figures['device']} | {figures['size']} | {figures['dtype']} | {seconds} | {ratios} |"]
    table = (ROOT / "README.md").read_text().partition("## What it costs")[2].partition("\n## ")[0]
    assert [figure for figure in told if figure not in table] == []

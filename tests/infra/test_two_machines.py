"""A head and a worker with networks of their own, a token and a Prefect server: the walk that the README describes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

from emo_data.video import probe
from tests.infra.files import INFRA, ROOT

SCRIPT = INFRA / "two-machines.sh"


def family(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(mark in value for value in process.environ().values()) and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_the_walk_through_two_machines(tmp_path):
    check_walk(tmp_path, {})


def check_walk(tmp_path: Path, how: dict[str, str]) -> None:
    """how: variables for the script."""
    there = {process.pid for process in psutil.process_iter() if "raylet" in process.name()}
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EMO_TEST_MARK": str(tmp_path),
        **how,
    }
    done = subprocess.run([SCRIPT, tmp_path / "two"], env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "nobody is answered without the token" in done.stdout
    video = probe(tmp_path / "two/videos/hello.mp4")
    assert len(video.times) in (50, 51)  # two seconds, and what AAC adds to them
    assert family(str(tmp_path)) == [], "something of it is left"
    alive = {process.pid for process in psutil.process_iter() if "raylet" in process.name()}
    assert there & alive == {pid for pid in there if psutil.pid_exists(pid)}, "another's Ray was touched"
    told = "".join(path.read_text(errors="replace") for path in (tmp_path / "two/logs").glob("*.txt"))
    assert not re.search(r"\b[0-9a-f]{48}\b", told + done.stdout + done.stderr), "a token is in a log"

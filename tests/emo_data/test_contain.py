"""Native code that misbehaves, for real: a child process that crashes, hangs, eats memory, raises."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from emo_data.ingest.child import SURVEYED, survey_request
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.contain import Contained, Fault, Limits
from emo_data.ingest.plan import Survey
from emo_data.schema import Reason
from tests.emo_data.faults import WAYS, misbehaving

CONFIG = IngestConfig(size=64, audio_model="tiny")
LIMITS = Limits(silence=6, memory=2 * 2**30)


def ask(contained, path):
    kind, content = contained.ask(survey_request(path, "sha", CONFIG))
    assert kind == SURVEYED
    return Survey.from_json(content.decode())


@pytest.mark.parametrize("way", WAYS)
def test_whatever_happens_to_the_child_is_told_in_time_and_the_next_file_is_read(way, sample, monkeypatch, tmp_path):
    misbehaving(monkeypatch, tmp_path)
    good = next(iter(sorted((sample / "clips").glob("look*.mp4"))))
    bad = tmp_path / f"{way}.mp4"
    bad.write_bytes(good.read_bytes())
    with Contained(LIMITS) as contained:
        assert ask(contained, good).frames == 100
        start = time.monotonic()
        with pytest.raises(Fault) as fault:
            ask(contained, bad)
        assert fault.value.reason is WAYS[way]
        assert time.monotonic() - start < 40
        assert ask(contained, good).frames == 100


def test_the_child_is_told_apart_by_what_it_said_last(sample, monkeypatch, tmp_path):
    misbehaving(monkeypatch, tmp_path)
    for way, told in {
        "crash": r"SIGSEGV\): the last words",
        "raise": "ZeroDivisionError",
        "hang": "without progress",
    }.items():
        (tmp_path / f"{way}.mp4").write_bytes(b"x")
        with Contained(LIMITS) as contained, pytest.raises(Fault, match=told):
            ask(contained, tmp_path / f"{way}.mp4")


def test_slow_work_that_goes_on_is_no_hang(monkeypatch, tmp_path):
    misbehaving(monkeypatch, tmp_path)
    (tmp_path / "slow.mp4").write_bytes(b"this is no video")
    with Contained(Limits(silence=2.5)) as contained:
        start = time.monotonic()
        assert ask(contained, tmp_path / "slow.mp4").refused.reason is Reason.UNREADABLE
        assert time.monotonic() - start > 3


def test_a_child_does_not_live_for_ever(sample):
    good = next((sample / "clips").glob("look*.mp4"))
    with Contained(Limits(requests=2)) as contained:
        pids = []
        for _ in range(4):
            ask(contained, good)
            pids.append(contained._running and contained._running.process.pid)
        assert pids[0] is not None and pids[1] is None and pids[2] not in (None, pids[0]) and pids[3] is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_hanging_child_dies_with_its_parent(monkeypatch, tmp_path):
    misbehaving(monkeypatch, tmp_path)
    (tmp_path / "hang.mp4").write_bytes(b"x")
    script = (
        "import sys\nfrom pathlib import Path\nfrom tests.emo_data.test_contain import ask\n"
        "from emo_data.ingest.contain import Contained\n"
        "contained = Contained()\ncontained._started()\nprint(contained._running.process.pid, flush=True)\n"
        "ask(contained, Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "hang.mp4")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(1)
    assert child.is_running()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_foreign_modules_beside_the_user_are_not_imported(sample, monkeypatch, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('a foreign numpy')")
    monkeypatch.chdir(tmp_path)
    with Contained(LIMITS) as contained:
        assert ask(contained, next((sample / "clips").glob("look*.mp4"))).frames == 100

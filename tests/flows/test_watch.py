"""A flow's side of a job, when one of the two dies, hangs or is another version."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from emo_data.errors import UserError
from emo_data.lease import Taken
from flows import watch
from flows.forms.train import TrainForm
from flows.forms.where import Where
from flows.launch.here import family
from flows.launch.launcher import JobLost
from flows.notes import Notes, Progress, Spec, open_jobs, versions

reaper = import_module("flows.deployed.reaper")  # beside it, the flow has the name
ROOT = Path(__file__).parents[2]
FOLLOW = "import sys; from flows.notes import Spec; from flows.watch import follow; "
FOLLOW += "follow(Spec.model_validate_json(sys.argv[1]), 'train', {})"
TRAIN = "import json, sys; from flows.deployed.train import train; train(**json.loads(sys.argv[1]))"


def spec(data: str, folder: Path, steps: int, **changes: object) -> Spec:
    form = TrainForm(stage=1, data=data, out=str(folder / "run"), steps=steps, device="cpu")
    where = Where(notes=str(folder / "jobs"))
    told = {
        "id": f"emo-train-{folder.name}",
        "kind": "train",
        "form": form.model_dump(),
        "where": where.model_dump(),
        "flow_run": None,
        "versions": versions(),
    }
    return Spec.model_validate(told | changes)


def until(ask, seconds=600):
    end = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.1)
    return found


def elsewhere(script: str, given: str, **environment: str) -> subprocess.Popen:
    """A flow in a process of its own, without a runner."""
    return subprocess.Popen(
        [sys.executable, "-c", script, given],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def leader(job: str) -> int:
    return next(process.pid for process in family(job) if "flows.job" in process.cmdline())


def test_nothing_of_a_flow_brings_ray_or_torch():
    script = (
        "import sys, flows.deployed.register, flows.watch; print([m for m in ('ray', 'torch') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "[]"


def test_who_asks_again_follows_the_job_that_runs(data, tmp_path):
    given = spec(data, tmp_path, 40)
    first = elsewhere(FOLLOW, given.model_dump_json())
    until(lambda: (now := Notes(given.where["notes"], given.id).progress()) and now.done)
    pid = leader(given.id)
    with pytest.raises(Taken, match="another flow"):  # while one lives, no other
        watch.follow(given, "train", {})
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert leader(given.id) == pid  # nobody watches, and it goes on
    seen = []
    waiting = threading.Thread(target=lambda: seen.append(until(lambda: leader(given.id))))
    waiting.start()
    result = watch.follow(given, "train", {})
    waiting.join()
    assert seen == [pid]
    assert Path(result["model"]).is_dir() and family(given.id) == [] and open_jobs(given.where["notes"]) == []
    assert watch.follow(given, "train", {}) == result  # what is done is not done again
    assert family(given.id) == []


def test_the_reaper_stops_what_nobody_watches(served, data, tmp_path):
    run = tmp_path / "run"
    given = {
        "what": {"stage": 1, "data": data, "out": str(run), "device": "cpu"},
        "where": {"notes": served.jobs},
    }
    flow = elsewhere(TRAIN, json.dumps(given), PREFECT_API_URL=f"{served.page}/api", **served.home)
    (job,) = until(lambda: open_jobs(served.jobs))
    until(lambda: (now := Notes(served.jobs, job.id).progress()) and now.done)
    served.completed(served.start("reaper"))
    assert family(job.id) != []  # somebody cares
    flow.send_signal(signal.SIGKILL)
    flow.wait()
    assert served.state(job.flow_run)["type"] == "RUNNING"
    assert family(job.id) != []
    reaper = served.start("reaper")
    served.completed(reaper)
    served.until(lambda: job.id in served.logs(reaper), 30)
    assert family(job.id) == [] and open_jobs(served.jobs) == []
    state = served.state(job.flow_run)
    assert state["type"] == "CRASHED" and "run again to go on" in state["message"]


def test_the_reaper_goes_on_where_one_cluster_is_away(tmp_path, monkeypatch):
    stopped = []

    def stop(job):
        if job == "emo-train-1":
            raise JobLost("no answer")
        stopped.append(job)

    for number in (1, 2):
        given = spec("data", tmp_path, 1, id=f"emo-train-{number}")
        Notes(given.where["notes"], given.id).open(given)
    monkeypatch.setattr(reaper, "get_client", lambda sync_client: nullcontext())
    monkeypatch.setattr(reaper, "launcher_for", lambda where, keys: SimpleNamespace(stop=stop))
    where = Where(notes=str(tmp_path / "jobs"))
    with pytest.raises(JobLost, match="emo-train-1: no answer"):
        reaper.reaper.fn(where)
    assert stopped == ["emo-train-2"]
    assert [job.id for job in open_jobs(where.notes)] == ["emo-train-1"]


def test_a_job_that_stands_still_is_noticed_and_ended(data, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SILENCE", 4.0)
    given = spec(data, tmp_path, 10_000)

    def freeze():
        until(lambda: (now := Notes(given.where["notes"], given.id).progress()) and now.done)
        os.kill(leader(given.id), signal.SIGSTOP)

    frozen = threading.Thread(target=freeze)
    frozen.start()
    with pytest.raises(JobLost, match="no sign of life"):
        watch.follow(given, "train", {})
    frozen.join()
    assert family(given.id) == []


def test_a_job_that_lives_and_does_not_get_on_is_stuck(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    patience = watch.Patience(stuck=600)
    for second in range(0, 600, 2):
        now[0] = float(second)
        patience.check(Progress(beat=second, phase="survey", done=second // 300))
    now[0] = 899.0
    patience.check(Progress(beat=900, phase="survey", done=1))
    now[0] = 901.0
    with pytest.raises(JobLost, match="stuck: no progress for 10 minutes, at survey"):
        patience.check(Progress(beat=901, phase="survey", done=1))


def test_another_version_is_refused_before_any_work(tmp_path):
    given = spec("nowhere", tmp_path, 10, versions={**versions(), "ray": "2.0.0"})
    with pytest.raises(UserError, match=r"ray 2\.60\.\d+ here, 2\.0\.0 there"):
        watch.follow(given, "train", {})

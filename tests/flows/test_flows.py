"""The flows as Prefect's page starts them, cancels them and tries them again; with a real server and a real Ray."""

import time
from pathlib import Path

import psutil
import pytest

from emo_core.training.plan import plan
from emo_core.training.recipes import stage_recipe
from emo_core.training.run import carry_out
from flows.launch.here import family
from flows.notes import Notes, open_jobs
from flows.proof import NAMES
from tests.emo_core.runs import CPU, losses, same_weights
from tests.emo_data.kills import content

STEPS = 60
IN_TIME = 30
"""Seconds from the button to the end of everything that computed."""


def progress(served, job):
    return Notes(served.jobs, job).progress()


def begun(served, job, phase, steps=1):
    """Wait until a job is in the middle of its work."""

    def there():
        now = progress(served, job)  # perhaps of an earlier try
        return now and now.phase == phase and now.done >= steps and family(job)

    served.until(there, 600)


def test_an_ingestion_is_started_watched_and_done(served, asked, data, tmp_path):
    run = served.start("ingest", {**asked, "out": str(tmp_path / "data"), "workers": 0})
    served.completed(run)
    assert content(str(tmp_path / "data")) == content(data)
    shown = served.artifacts(run)
    assert set(shown) == {"ingest-places", "ingest-progress", "ingest-counts"}
    assert shown["ingest-progress"]["data"] == 100
    assert '{"what": "clips", "how many": 4.0}' in shown["ingest-counts"]["data"]
    assert str(tmp_path / "data") in shown["ingest-places"]["data"]
    job = f"emo-ingest-{run}"
    # What the job says is what the run says, as soon as Prefect has sent it.
    served.until(lambda: "ingest: done in" in served.logs(run), 60)
    seconds = served.seconds_to_first_line(run, f"{job}: Python")
    print(f"{seconds:.1f} s from the submission to the job's first line")
    assert seconds < 20
    assert open_jobs(served.jobs) == []


@pytest.mark.parametrize(
    ("flow", "what", "named"),
    [
        ("train", {"stage": 4}, "what.stage"),
        ("train", {"stage": 1, "steps": 0}, "what.steps"),
        ("train", {"stage": 1, "step": 5}, "step"),
        ("train", {"stage": 1, "preset": "sd14"}, "what.preset"),
        ("ingest", {"sources": []}, "what.sources"),
        ("ingest", {"size": 33}, "what.size"),
    ],
)
def test_what_does_not_fit_is_refused_before_there_is_a_run(served, asked, flow, what, named):
    good = {"ingest": {**asked, "out": "data"}, "train": {"stage": 1, "data": "data", "out": "run"}}[flow]
    answer = served.submit(flow, what=good | what)
    assert answer.status_code == 409
    assert named in answer.json()["detail"]


def test_what_does_not_fit_together_is_refused_before_there_is_a_job(served):
    run = served.start("train", {"stage": 2, "data": "data", "out": "run"})
    state = served.ended(run)
    assert state["type"] == "FAILED" and "stage 2 needs the model of stage 1" in state["message"]
    assert Notes(served.jobs, f"emo-train-{run}").progress() is None


def test_a_wrong_input_is_said_in_the_run_and_not_tried_again(served, tmp_path):
    run = served.start("train", {"stage": 1, "data": str(tmp_path / "none"), "out": str(tmp_path / "run")})
    state = served.ended(run)
    assert state["type"] == "FAILED" and "none does not exist; `emo ingest SOURCE" in state["message"]
    assert served.http.get(f"/flow_runs/{run}").json()["run_count"] == 1
    served.until(lambda: "Python 3." in served.logs(run), 60)
    assert served.logs(run).count("Python 3.") == 1


def test_an_ingestion_on_ray_that_is_cancelled_and_whose_ray_dies_while_another_waits(
    served, long_asked, long_data, tmp_path
):
    form = {**long_asked, "out": str(tmp_path / "data"), "workers": 1}
    run = served.start("ingest", form)
    job = f"emo-ingest-{run}"
    begun(served, job, "ingest")
    assert any("raylet" in process.name() for process in family(job))
    assert served.cancel(run) < IN_TIME
    assert family(job) == [] and open_jobs(served.jobs) == []

    served.retry(run)
    served.until(lambda: family(job), 60)
    other = served.start("ingest", form)
    begun(served, job, "ingest", steps=8)
    (raylet,) = (process for process in family(job) if process.name() == "raylet")
    raylet.kill()
    served.until(lambda: family(job) == [], 60)  # a Ray takes its driver along
    served.until(lambda: served.state(other)["type"] == "RUNNING", 60)
    begun(served, job, "ingest")  # by itself: it is tried again
    assert Notes(served.jobs, f"emo-ingest-{other}").progress() is None  # one writes a dataset
    served.cancel(other)
    served.completed(run)
    assert content(str(tmp_path / "data")) == content(long_data)
    assert family(job) == [] and open_jobs(served.jobs) == []
    served.until(lambda: "the job ended without a result: its process is gone" in served.logs(run), 60)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    """A run of a few steps."""
    recipe = stage_recipe(1, "tiny").model_copy(update={"steps": STEPS, "checkpoint_every": 10})
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    carry_out(plan(recipe, data, out), CPU)
    return out


def test_a_training_that_is_cancelled_and_whose_flow_is_killed_and_whose_job_is_killed(
    served, data, undisturbed, tmp_path
):
    out = tmp_path / "run"
    form = {"stage": 1, "data": data, "out": str(out), "steps": STEPS, "checkpoint_every": 10, "device": "cpu"}
    run = served.start("train", form)
    job = f"emo-train-{run}"
    begun(served, job, "stage 1")
    assert served.cancel(run) < IN_TIME
    assert family(job) == []
    assert list((out / "checkpoints").iterdir()) != []  # the step that it was in is kept

    served.retry(run)
    begun(served, job, "stage 1")
    flow = served.process_of(run)
    flow.kill()
    state = served.ended(run, 60)
    assert state["type"] == "CRASHED" and "-9" in state["message"]
    served.until(lambda: family(job) == [] and open_jobs(served.jobs) == [], IN_TIME)

    served.retry(run)
    begun(served, job, "stage 1", steps=20)
    for process in family(job):
        process.kill()
    served.completed(run)  # by itself: what died without a word is tried again
    served.until(lambda: "the job ended without a result" in served.logs(run), 60)
    assert losses(out) == losses(undisturbed)
    assert same_weights(out / "model", undisturbed / "model")
    shown = served.artifacts(run)
    assert shown["train-loss"]["data"].startswith("data:image/png;base64,")
    assert shown["train-preview"]["data"].startswith("data:image/png;base64,")
    assert f"tensorboard --logdir {out}/tensorboard" in shown["train-places"]["data"]


def test_a_proof_gets_to_its_first_step_and_is_cancelled(served, tmp_path):
    run = served.start("proof", {"out": str(tmp_path / "proof"), "device": "cpu"})
    job = f"emo-proof-{run}"
    begun(served, job, f"1/{len(NAMES)} sample")
    assert served.cancel(run) < IN_TIME
    assert family(job) == [] and open_jobs(served.jobs) == []
    assert str(tmp_path / "proof/report.md") in served.artifacts(run)["proof-places"]["data"]


def test_following_a_job_costs_next_to_nothing(served, data, tmp_path):
    run = served.start("train", {"stage": 1, "data": data, "out": str(tmp_path / "run"), "device": "cpu"})
    job = f"emo-train-{run}"
    begun(served, job, "stage 1")
    flow = psutil.Process(served.process_of(run).pid)
    time.sleep(3)  # what is done once is over
    start, before = time.monotonic(), sum(flow.cpu_times()[:2])
    time.sleep(12)
    share = (sum(flow.cpu_times()[:2]) - before) / (time.monotonic() - start)
    print(f"following a job takes {share:.2%} of a core")
    served.cancel(run)
    assert share < 0.01

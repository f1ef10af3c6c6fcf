"""The whole chain on the smallest model, from the page's form to a report."""

import json
from pathlib import Path

import pytest

from flows.forms.full import FullForm


def test_from_videos_to_a_report(served, asked, tmp_path):
    videos = {name: value for name, value in asked.items() if name != "sources"}
    what = {
        "sources": asked["sources"],
        "out": str(tmp_path / "all"),
        "videos": {**videos, "identity_pattern": r"^(look\d+_\d+)", "workers": 0},  # of these, three are held out
        "training": {"device": "cpu"},
        **{f"steps{stage}": 3 for stage in (1, 2, 3)},
        "clips": 1,
        "seconds": 1,
        "denoising_steps": 2,
        "metrics": ["motion"],
    }
    run = served.start("full", what)
    served.completed(run, 1200)
    out = tmp_path / "all"
    assert json.loads((out / "stage3/model/emo.json").read_text())["stage"] == 3
    assert (out / "evaluation/generated/0000.mp4").is_file()
    assert "velocity_mean" in json.loads((out / "evaluation/report.json").read_text())["metrics"]
    shown = served.artifacts(run)
    assert {"ingest-counts", "train1-loss", "train2-preview", "train3-places", "evaluate-report"} <= set(shown)
    served.set_state(run, "SCHEDULED", "AwaitingRetry")
    served.until(lambda: served.state(run)["type"] == "RUNNING", 60)
    served.completed(run, 60)
    jobs = [path.name for path in Path(served.jobs).iterdir() if run in path.name]
    assert len(jobs) == 5  # a step that is done is not started again


def test_the_chain_is_made_of_the_forms_of_its_steps():
    form = FullForm.model_validate(
        {"sources": ["a"], "out": "s3://bucket/all/", "steps2": 7, "service": {"folder": "/shared/jobs", "makers": 2}}
    )
    assert form.ingestion().out == "s3://bucket/all/data"
    assert form.stage(1, None).steps is None
    assert (form.stage(2, "m").steps, form.stage(2, "m").init) == (7, "m")
    assert form.evaluation("m").data == "s3://bucket/all/data"
    serving = form.serving("m")
    assert serving is not None and (serving.model, serving.makers) == ("m", 2)
    with pytest.raises(ValueError, match="stage 1 starts from nothing"):
        form.stage(1, "m")

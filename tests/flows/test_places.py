"""Paths on their way to a cluster, whose nodes start elsewhere than whoever typed them."""

import os
from pathlib import Path

import pytest

from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder
from emo_data.store import Dataset
from flows import cli
from flows.deployed.full import full
from flows.deployed.ingest import ingest
from flows.deployed.serve import serve
from flows.forms.full import FullForm
from flows.forms.ingest import IngestForm
from flows.forms.serve import ServeForm
from flows.forms.train import TrainForm
from flows.forms.where import Where

NOBODY = "http://127.0.0.1:1"


def test_a_form_knows_its_paths_that_depend_on_where_one_stands():
    films = IngestForm(sources=["/disk/films", "s3://films", "list.csv", "more/*.mkv"], out="data", audio_model="a/b")
    assert list(films.half_said()) == [("Videos", "list.csv"), ("Videos", "more/*.mkv"), ("Dataset", "data")]
    stage = TrainForm(stage=2, data="s3://d", out="run", init="run1/model", weights="w", cache_latents="l")
    assert [place for _, place in stage.half_said()] == ["run", "run1/model", "w", "l"]
    whole = FullForm(sources=["/films"], out="s3://bucket/x")
    assert list(whole.half_said()) == [] and list(whole.stage(1, None).half_said()) == []


def test_a_flow_says_so_before_it_asks_the_cluster(tmp_path):
    where = Where(cluster=NOBODY, notes=str(tmp_path))
    with pytest.raises(UserError, match=r"^Dataset data: .* give a whole path"):
        ingest.fn(IngestForm(sources=["/films"], out="data"), where)
    with pytest.raises(UserError, match=r"^Folder jobs: "):
        serve.fn(ServeForm(model="s3://m", folder="jobs"), where)
    chain = {"sources": ["/films"], "out": "s3://bucket/x"}
    with pytest.raises(UserError, match=r"^Public weights w: "):
        full.fn(FullForm.model_validate({**chain, "training": {"weights": "w"}}), where)
    with pytest.raises(UserError, match=r"^Folder jobs: "):
        full.fn(FullForm.model_validate({**chain, "service": {"folder": "jobs"}}), where)
    with pytest.raises(UserError, match=r"^Ray cluster: a service needs one"):
        full.fn(FullForm.model_validate({**chain, "service": {"folder": "jobs"}}), Where(notes=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def planned(monkeypatch, data):
    """Where runs lie, and what they learn from: each is begun, and nobody trains it. The dataset is ./data."""
    plans = []

    def begin(plan, *_):
        plan.run.claim()
        plans.append((plan.run.url, plan.run.card.data, plan.init, plan.cache))

    monkeypatch.setattr("emo_core.training.run.carry_out", begin)
    monkeypatch.chdir(Path(data).parent)
    return plans


def test_a_run_that_was_begun_here_goes_on_on_a_cluster(planned, tmp_path):
    out = os.path.relpath(tmp_path / "run")
    words = ["train", "--stage", "1", "--data", "data", "--out", out, "--cache-latents", "latents", "--steps", "1"]
    assert cli.run(words) == 0
    assert cli.run([*words, "--workers", "1", "--address", "127.0.0.1:1"]) == 0
    here, there = planned
    assert here == (out, "data", None, "latents")
    assert there == (str(tmp_path / "run"), os.path.abspath("data"), None, os.path.abspath("latents"))


def test_addresses_of_stores_stay_as_they_are():
    from flows.commands.options import whole

    assert [whole("s3://b/data"), whole("/disk"), whole("here/../data")] == [
        "s3://b/data",
        "/disk",
        os.path.abspath("data"),
    ]


def test_an_ingestion_goes_on_with_its_audio_model_by_another_path(tmp_path, monkeypatch):
    encoder = AudioEncoder.load("tiny")
    encoder.save(tmp_path / "ears")
    form = {"audio_model": "ears", "audio_extractor": encoder.fingerprint, "size": 80}
    Dataset.create(str(tmp_path / "data"), form)
    assert Dataset.check(str(tmp_path / "data"), form | {"audio_model": str(tmp_path / "ears")})
    with pytest.raises(UserError, match="audio_extractor"):
        Dataset.check(str(tmp_path / "data"), form | {"audio_model": "others", "audio_extractor": "another"})
    given = []

    def ask(*told, **_):
        given.append(told)
        raise UserError("nobody is there")

    monkeypatch.setattr("emo_data.ingest.run.ingest", ask)
    monkeypatch.chdir(tmp_path)
    words = ["films", "--out", "data", "--audio-model", "ears", "--workers", "1", "--address", "127.0.0.1:1"]
    cli.run(["ingest", *words])
    cli.run(["ingest", *words[:4], "tiny", *words[5:]])
    assert [(out, config.audio_model) for _, out, config in given] == [
        (str(tmp_path / "data"), str(tmp_path / "ears")),
        (str(tmp_path / "data"), "tiny"),
    ]

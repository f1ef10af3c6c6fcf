"""Keys come from blocks, and go nowhere else."""

import os

import fsspec
import pytest
import s3fs

from emo_data.objects import Folder
from emo_data.store import Dataset
from flows import watch
from flows.deployed.ingest import ingest
from flows.forms.ingest import IngestForm
from flows.forms.where import Where
from flows.launch.here import Here
from flows.notes import Notes, open_jobs
from flows.secrets import ObjectStore, store_keys
from flows.work.evaluate import workplace
from tests.s3 import s3_environment, s3_server


@pytest.fixture(scope="module")
def store():
    """Where a store answers that has the bucket films."""
    with s3_server() as endpoint:
        with s3_environment(endpoint):
            s3fs.S3FileSystem().mkdir("films")
        yield endpoint


def test_the_keys_of_a_store_come_from_a_block(served, store, asked):
    keys = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "something that nobody else may see"}
    served.block("emo-object-store", "films", {**keys, "endpoint_url": store, "region": "us-east-1"})
    form = {**asked, "out": "s3://films/data", "workers": 0}
    run = served.start("ingest", form, credentials="films")
    served.completed(run)
    with s3_environment(store):
        assert len(Dataset.open("s3://films/data").commits()) == 4
    run_and_flow = served.http.get(f"/flow_runs/{run}").text + served.logs(run) + str(served.artifacts(run))
    assert "may see" not in run_and_flow
    notes = "".join(path.read_text() for path in served.folder.glob(f"jobs/*{run}/*.*") if path.suffix != ".png")
    assert "emo-ingest" in notes and "may see" not in notes


def test_a_block_that_is_not_there_is_named(served, asked):
    run = served.start("ingest", {**asked, "out": "data", "workers": 0}, credentials="nobodys")
    state = served.ended(run)
    assert state["type"] == "FAILED" and "Object store nobodys: there is no block of this name" in state["message"]


def test_a_connection_does_not_go_on_with_keys_of_another_block(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setattr(
        ObjectStore, "load", lambda name: ObjectStore(access_key_id=name, secret_access_key="a secret of its own")
    )
    found = []
    for name in ("one", "other"):
        with store_keys(Where(credentials=name)) as keys:
            assert keys["AWS_ACCESS_KEY_ID"] == os.environ["AWS_ACCESS_KEY_ID"] == name
            found.append(fsspec.filesystem("s3"))
    assert found[0] is not found[1]
    assert os.environ.get("AWS_ACCESS_KEY_ID") is None


def test_an_evaluation_in_a_store_goes_on_with_what_is_there(store):
    with s3_environment(store):
        folder = Folder("s3://films/evaluation")
        with pytest.raises(KeyboardInterrupt), workplace(folder.url) as out:
            (out / "generated").mkdir()
            (out / "generated/0000.mp4").write_bytes(b"a video")
            (out / "generated/0001.mp4.unfinished").write_bytes(b"half a video")
            raise KeyboardInterrupt
        before = folder.info("generated/0000.mp4")["LastModified"]
        with workplace(folder.url) as out:
            assert (out / "generated/0000.mp4").read_bytes() == b"a video"
            (out / "generated/0001.mp4.unfinished").unlink()
            (out / "report.json").write_text("{}")
        assert folder.all_names() == ["generated/0000.mp4", "report.json"]
        assert folder.info("generated/0000.mp4")["LastModified"] == before  # what is as it was is not sent again


def test_notes_in_a_store_are_what_flow_job_and_reaper_meet_by(store, asked, clips, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    keys = {"access_key_id": "someone", "secret_access_key": "a secret", "endpoint_url": store, "region": "us-east-1"}
    monkeypatch.setattr(ObjectStore, "load", lambda name: ObjectStore(**keys))
    # Such notes are a cluster's: here its job is a process, which knows the keys and no more of us.
    monkeypatch.setattr(watch, "launcher_for", lambda where, keys: Here(str(tmp_path), keys))
    where = Where(cluster="http://head:8265", notes="s3://films/jobs", credentials="films")
    seen = []

    class Patience(watch.Patience):
        def check(self, now):
            seen.append([job.id for job in open_jobs(where.notes)])
            super().check(now)

    monkeypatch.setattr(watch, "Patience", Patience)
    (film, *_) = sorted(clips.glob("*.mp4"))
    form = IngestForm.model_validate({**asked, "sources": [str(film)], "out": "s3://films/notes-data", "workers": 0})
    assert ingest.fn(form, where)["clips"] == 1
    assert "AWS_ACCESS_KEY_ID" not in os.environ
    with s3_environment(store):
        (job,) = seen[0]
        assert seen == [[job]] * len(seen) and open_jobs(where.notes) == []
        notes, folder = Notes(where.notes, job), Folder(where.notes)
        result, now = notes.result(), notes.progress()
        assert result is not None and result.state == "done"
        assert now is not None and now.counts["clips"] == 1
        assert "a secret" not in "".join(folder.read(name).decode() for name in folder.all_names())

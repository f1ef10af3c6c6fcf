"""Sources and dataset in an S3 store that fails now and then: the dataset is the same as in one that never does."""

import pyarrow.dataset
import pytest
import s3fs

from emo_data import objects
from emo_data.dataset.index import ClipIndex
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.run import ingest
from emo_data.objects import Folder
from emo_data.schema import Split
from emo_data.store import Dataset
from tests.emo_data.kills import content
from tests.s3 import Faults, fault_proxy, s3_environment, s3_server

CONFIG = IngestConfig(size=64, audio_model="tiny", test_share=0)


@pytest.fixture(scope="module")
def store(sample):
    faults = Faults()
    with s3_server() as endpoint, fault_proxy(endpoint, faults) as proxy, s3_environment(proxy):
        s3fs.S3FileSystem().mkdir("s3://films")
        inside = Folder("s3://films/in")
        for path in sorted((sample / "clips").glob("look[0-2]*.mp4")):
            inside.write(f"deep/{path.name}", path.read_bytes())
        inside.write("broken.mp4", b"this is no video")
        inside.write("list.csv", b"uri,start,end,identity\ndeep/look0_000.mp4,1,3.5,ann\n")
        yield faults


def test_a_store_that_fails_gives_the_same_dataset(store, monkeypatch):
    summary = ingest(["s3://films/in"], "s3://films/plain", CONFIG)
    assert (summary.clips, summary.rejections) == (3, {"unreadable": 1})
    monkeypatch.setattr(objects, "_FIRST_WAIT", 0.02)
    monkeypatch.setattr(objects, "_TRIES", 12)
    store.share, store.happened = 0.25, type(store.happened)()
    try:
        ingest(["s3://films/in"], "s3://films/faulty", CONFIG)
        again = ingest(["s3://films/in"], "s3://films/faulty", CONFIG)
    finally:
        store.share = 0.0
    assert (again.already_done, again.clips) == (4, 0)
    assert {"503", "reset", "lost"} <= {event.split()[0] for event in store.happened}
    assert content("s3://films/faulty") == content("s3://films/plain")


def test_a_manifest_lies_beside_what_it_names(store):
    summary = ingest(["s3://films/in/list.csv"], "s3://films/listed", CONFIG)
    assert summary.clips == 1
    _, table = Dataset.open("s3://films/listed").clips(["identity", "start_seconds", "end_seconds", "source"])
    (row,) = table.to_pylist()
    assert row["identity"] == "ann" and row["source"] == "s3://films/in/deep/look0_000.mp4"
    assert (row["start_seconds"], row["end_seconds"]) == pytest.approx((1.0, 3.48), abs=0.001)


def test_what_lies_in_a_store_can_be_learned_from_and_read_by_others(store):
    ingest(["s3://films/in"], "s3://films/plain", CONFIG)
    index = ClipIndex("s3://films/plain", Split.TRAIN, listening=True)
    assert len(index) == 3 and index.pictures(0).shape == (100, 64, 64, 3)
    table = pyarrow.dataset.dataset("films/plain/clips", filesystem=s3fs.S3FileSystem()).to_table(columns=["clip_id"])
    assert table.num_rows == 3

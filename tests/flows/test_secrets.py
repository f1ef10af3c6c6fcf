"""Keys come from blocks, and go nowhere else."""

import s3fs

from emo_data.store import Dataset
from tests.s3 import s3_environment, s3_server


def test_the_keys_of_a_store_come_from_a_block(served, asked):
    keys = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "something that nobody else may see"}
    with s3_server() as endpoint:
        with s3_environment(endpoint):
            s3fs.S3FileSystem().mkdir("films")
        served.block("emo-object-store", "films", {**keys, "endpoint_url": endpoint, "region": "us-east-1"})
        form = {**asked, "out": "s3://films/data", "workers": 0}
        run = served.start("ingest", form, credentials="films")
        served.completed(run)
        with s3_environment(endpoint):
            assert len(Dataset.open("s3://films/data").commits()) == 4
    run_and_flow = served.http.get(f"/flow_runs/{run}").text + served.logs(run) + str(served.artifacts(run))
    assert "may see" not in run_and_flow
    notes = "".join(path.read_text() for path in served.folder.glob(f"jobs/*{run}/*.*") if path.suffix != ".png")
    assert "emo-ingest" in notes and "may see" not in notes


def test_a_block_that_is_not_there_is_named(served, asked):
    run = served.start("ingest", {**asked, "out": "data", "workers": 0}, credentials="nobodys")
    state = served.ended(run)
    assert state["type"] == "FAILED" and "Object store nobodys: there is no block of this name" in state["message"]

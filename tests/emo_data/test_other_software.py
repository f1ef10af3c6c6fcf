"""A dataset is Parquet that others can open without a line of ours."""

import numpy as np
import pytest

from emo_data.schema import SCHEMA_VERSION


def test_pyarrow_and_pandas(ingested):
    import pandas as pd
    import pyarrow.parquet as pq

    dataset, _, _ = ingested
    table = pq.read_table(f"{dataset.url}/clips")
    assert table.num_rows == 4 and table.schema.metadata[b"emo_schema_version"] == str(SCHEMA_VERSION).encode()
    frame = pd.read_parquet(f"{dataset.url}/clips", columns=["clip_id", "speed", "frames"])
    assert all(len(row.speed) == row.frames == 100 for row in frame.itertuples())
    assert pd.read_parquet(f"{dataset.url}/rejections").reason.tolist() == ["unreadable"]


def test_hugging_face_datasets(ingested, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    dataset, _, _ = ingested
    rows = datasets.load_dataset(
        "parquet", data_files=f"{dataset.url}/clips/*.parquet", split="train", cache_dir=str(tmp_path)
    )
    assert len(rows) == 4 and np.asarray(rows[0]["rotation"]).shape == (100, 3)


def test_ray_data(ingested):
    ray = pytest.importorskip("ray")
    dataset, _, _ = ingested
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        rows = ray.data.read_parquet(f"{dataset.url}/clips", columns=["clip_id", "box"]).take_all()
    finally:
        ray.shutdown()
    assert len(rows) == 4 and np.stack([np.stack(row["box"]) for row in rows]).shape == (4, 100, 4)

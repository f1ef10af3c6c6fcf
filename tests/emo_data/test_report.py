"""The page to look at, and the judge of lips and sound."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from emo_data.dataset.report import write_report
from emo_data.errors import UserError
from emo_data.ingest.run import ingest
from emo_data.ingest.sync import Sync
from emo_data.store import Dataset
from tests.emo_data.conftest import CONFIG
from tests.emo_data.test_store import rejection


class FakeJudge:
    """Knows the sample: says of one clip that it is out of sync, of another that its sound is late."""

    name = "fake"

    def __call__(self, pictures, sound, fps):
        assert pictures.shape == (100, 128, 128, 3) and sound.shape == (64_000,) and fps == 25
        kind = round(float(np.abs(sound).sum())) % 3
        return [Sync(0.0, 1.0), Sync(0.4, 9.0), Sync(0.04, 9.0)][kind]


def test_a_judge_fills_its_columns_and_rejects(sample, tmp_path):
    out = str(tmp_path / "data")
    names = sorted(str(path) for path in (sample / "clips").glob("look[0-3]*.mp4"))
    summary = ingest(names, out, CONFIG, judge=FakeJudge)
    refused = Dataset.open(out).rejections().to_pylist()
    _, kept = Dataset.open(out).clips(["sync_offset", "sync_confidence"])
    assert summary.clips + len(refused) == 4 and kept.num_rows == summary.clips
    assert {row["reason"] for row in refused} <= {"out_of_sync"} and refused
    assert all(row["measured"] in (1.0, pytest.approx(0.4)) and row["threshold"] in (3.0, 0.24) for row in refused)
    assert all(row["sync_confidence"] == 9 and row["sync_offset"] == pytest.approx(0.04) for row in kept.to_pylist())
    with pytest.raises(UserError, match="sync_judge"):
        ingest(names, out, CONFIG)


def test_a_page_shows_what_there_is(ingested, tmp_path):
    dataset, _, _ = ingested
    assert write_report(dataset.url, tmp_path / "page.html", most=3) == 3
    page = (tmp_path / "page.html").read_text()
    assert "4 clips, 3 shown" in page and "rejected: unreadable, 1, 1 shown" in page and "broken.mp4" in page
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in re.findall(r"base64,([^\"]+)", page)
    ]
    assert [picture.shape for picture in pictures] == [(112, 336, 3)] * 3 and all(p.std() > 20 for p in pictures)


def test_names_cannot_put_anything_into_the_page(tmp_path):
    made = Dataset.create(str(tmp_path / "d"), {})
    made.write_source("a", "<script>alert(1)</script>", "s", [], [rejection("<script>alert(1)</script>")])
    write_report(made.url, tmp_path / "page.html", most=3)
    assert "<script" not in (tmp_path / "page.html").read_text()

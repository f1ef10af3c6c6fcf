"""A long source, looked at in chunks, gives every clip once; kills and other workers change nothing."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from emo_data.film import encode_video
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.run import ingest
from emo_data.schema import CLIP_SCHEMA
from emo_data.sound import read_sound
from emo_data.store import Dataset
from emo_data.video import probe, read_pictures

CONFIG = IngestConfig(
    size=64, audio_model="tiny", min_seconds=1, max_seconds=2, chunk_seconds=8, thresholds={"min_picture": 1}
)


@pytest.fixture(scope="module")
def film(sample, tmp_path_factory) -> Path:
    """24 s: a face but for 1 s before each border between chunks (8.5 to 9 s gone) and half a second after another."""
    clip = sorted((sample / "clips").glob("look*.mp4"))[0]
    info = probe(clip)
    pictures = [np.array(picture) for picture in read_pictures(info, np.arange(100), "pyav")]
    there = pictures + pictures[::-1]
    frames = [there[number % 200] for number in range(600)]
    for start, stop in ((212, 300), (300, 390), (410, 600)):  # borders at 200 and 400
        frames[start:stop] = [np.full_like(frames[0], 40)] * (stop - start) if start != 300 else frames[start:stop]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    encode_video(path, frames, 25, sound=np.tile(read_sound(clip), 6)[: 24 * 16_000])
    return path


def spans(dataset):
    _, clips = dataset.clips(["start_seconds", "end_seconds"])
    rows = [(row["start_seconds"], row["end_seconds"], "clip") for row in clips.to_pylist()]
    rows += [(row["start_seconds"], row["end_seconds"], row["reason"]) for row in dataset.rejections().to_pylist()]
    return sorted(rows)


def test_every_moment_of_a_long_source_is_in_one_row(film, tmp_path):
    summary = ingest([str(film)], str(tmp_path / "d"), CONFIG)
    dataset = Dataset.open(str(tmp_path / "d"))
    assert summary.chunks == 3 and len(dataset.commits()) == 1 and len(dataset.commits()[0].pieces) == 3
    rows = spans(dataset)
    assert (rows[0][0], rows[-1][1]) == (0, 24)
    assert all(before[1] == pytest.approx(after[0]) for before, after in pairwise(rows))
    clips = [(start, stop) for start, stop, what in rows if what == "clip"]
    # A face up to 8.48 s, and from 12 to 16.4 s: the ends beyond a border are too short to be clips of their own.
    assert clips[0][0] == 0 and any(stop == pytest.approx(8.48, abs=0.05) for _, stop in clips)
    assert clips[-1][1] == pytest.approx(16.4, abs=0.05)
    assert {what for _, _, what in rows} == {"clip", "no_face"}
    assert all(1 <= stop - start <= 2.01 for start, stop in clips)


def test_neighbours_see_the_same_around_their_border(film, tmp_path):
    """A clip's numbers do not depend on where the chunk it is in begins."""
    found = []
    for chunk_seconds in (8, 24):
        out = str(tmp_path / str(chunk_seconds))
        ingest([str(film)], out, CONFIG.model_copy(update={"chunk_seconds": chunk_seconds}))
        dataset = Dataset.open(out)
        places, _ = dataset.clips(["clip_id"])
        rows = [dataset.read_clip(place, CLIP_SCHEMA.names) for place in places]
        found.append(rows)
    angles = [np.concatenate([row["rotation"] for row in rows]) for rows in found]
    covered = [sum(row["frames"] for row in rows) for rows in found]
    assert covered[0] == covered[1]
    assert np.abs(angles[0] - angles[1]).max() < 3  # degrees; the mesh, started anew, settles within a few frames
    assert np.median(np.abs(angles[0] - angles[1])) < 0.05

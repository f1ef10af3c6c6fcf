"""Files of awkward and hostile kinds, all in one run: each ends as it should, and nothing hangs or is lost."""

from collections import defaultdict

import numpy as np
import pytest

from emo_data.ingest.config import IngestConfig
from emo_data.ingest.contain import Limits
from emo_data.ingest.run import ingest
from emo_data.ingest.sources import printable
from emo_data.schema import CLIP_SCHEMA
from emo_data.store import Dataset
from emo_data.video import decode_clip
from tests.emo_data.faults import misbehaving
from tests.emo_data.hostile import GOOD, KINDS, write_hostile

CONFIG = IngestConfig(size=64, audio_model="tiny", test_share=0)
SECONDS = 4


@pytest.fixture(scope="module")
def result(sample, tmp_path_factory):
    """(kinds that were written, clips and rejections by the file's printable name)."""
    folder, out = tmp_path_factory.mktemp("hostile"), str(tmp_path_factory.mktemp("out") / "data")
    kinds = write_hostile(sorted((sample / "clips").glob("look*.mp4"))[0], folder)
    summary = ingest([str(folder), str(folder / "raw.h264")], out, CONFIG)
    assert summary.copies == {} and summary.changed == 0
    dataset = Dataset.open(out)
    assert dataset.verify() == []
    clips, rejections = defaultdict(list), defaultdict(list)
    for place in dataset.clips(["clip_id"])[0]:
        row = dataset.read_clip(place, CLIP_SCHEMA.names)
        clips[row["source"].removeprefix(f"{folder}/")].append(row)
    for row in dataset.rejections().to_pylist():
        rejections[row["source"].removeprefix(f"{folder}/")].append(row)
    return {kind.name for kind in kinds}, clips, rejections


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: ascii(kind.name[:20]))
def test_a_file_ends_as_its_kind_says(result, kind):
    written, clips, rejections = result
    if kind.name not in written:
        pytest.skip("could not be made on this machine")
    name = printable(kind.name)
    if kind.name == "dir.mp4":  # a folder that is searched, and there is nothing in it
        assert name not in clips and name not in rejections
        return
    if not kind.usable:
        assert name not in clips
        assert {row["reason"] for row in rejections[name]} <= kind.reasons and rejections[name]
        assert all(row["detail"] for row in rejections[name])
        return
    assert name not in rejections
    (row,), (good,) = clips[name], clips[GOOD]
    frames = round((SECONDS - kind.shorter) * 25)
    assert row["frames"] == frames and row["detection_rate"] == 1 and row["sound_state"] == "voice"
    skipped = good["frames"] - frames
    ours, theirs = (np.array([picture.mean(axis=2) for picture in decode_clip(one["video"])]) for one in (row, good))
    assert np.abs(ours - theirs[skipped:]).mean() < 8  # upright, in time, square pixels
    assert np.corrcoef(row["mouth_opening"], good["mouth_opening"][skipped:])[0, 1] > 0.9
    assert row["mouth_sound_correlation"] > 0.85
    heard, known = (one["sound"].astype(float) for one in (row, good))
    late = skipped * 640
    best = max(np.corrcoef(heard[800:-800], known[late + 800 + shift :][: len(heard) - 1600])[0, 1] for shift in SHIFTS)
    assert best > 0.9


SHIFTS = range(-640, 641, 16)
"""Samples: lossy sound is late by less than a frame."""


def test_what_brings_a_program_down_brings_the_run_nothing(sample, monkeypatch, tmp_path):
    """Crash, hang, hunger and exception among good files: one row each, and the others are done; then once more."""
    misbehaving(monkeypatch, tmp_path)
    (tmp_path / "in").mkdir()
    good = sorted((sample / "clips").glob("look*.mp4"))[0].read_bytes()
    for number, name in enumerate(("a", "crash", "eat", "gil", "raise", "z")):
        (tmp_path / "in" / f"{name}.mp4").write_bytes(good + bytes([0, 0, 0, 9]) + b"free" + bytes([number]))
    limits = Limits(silence=10, memory=2 * 2**30)
    out = str(tmp_path / "data")
    summary = ingest([str(tmp_path / "in")], out, CONFIG, limits=limits)
    assert summary.clips == 2
    assert summary.rejections == {"crashed": 1, "failed": 1, "hung": 1, "out_of_memory": 1}
    assert ingest([str(tmp_path / "in")], out, CONFIG, limits=limits).already_done == 6
    monkeypatch.delenv("PYTHONPATH")  # the programs have been mended
    again = ingest([str(tmp_path / "in")], out, CONFIG, limits=limits, retry_faults=True)
    assert (again.already_done, again.clips, again.rejections) == (2, 4, {})
    assert Dataset.open(out).verify() == [] and Dataset.open(out).rejections().num_rows == 0

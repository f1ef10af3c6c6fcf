"""Held-out clips as files."""

import csv

import numpy as np
import pytest

from emo_data.dataset.testset import write_testset
from emo_data.errors import UserError
from emo_data.schema import Split
from emo_data.sound import read_sound
from emo_data.video import decode_clip


def listed(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_only_held_out_people_and_the_same_again(ingested, rows, tmp_path):
    url = ingested[0].folder.url
    held_out = [row for row in rows.values() if row["split"] == Split.TEST]
    assert 0 < len(held_out) < len(rows)  # the dataset has both sides
    for folder in ("one", "two", "other"):
        seed = 1 if folder == "other" else 0
        assert write_testset(url, tmp_path / folder, 1, 2.0, seed, [], lambda *_: None) == 1
    (row,) = listed(tmp_path / "one/manifest.csv")
    assert row["identity"] in {one["identity"] for one in held_out}
    assert listed(tmp_path / "one/batch.csv") == [
        {"name": "0000", "portrait": "portrait/0000.png", "audio": "audio/0000.wav"}
    ]
    clips = [decode_clip((tmp_path / folder / row["truth"]).read_bytes()) for folder in ("one", "two", "other")]
    assert clips[0].shape == (50, 128, 128, 3) and (clips[0] == clips[1]).all()
    assert np.abs(clips[0].astype(int) - clips[2]).mean() > 1
    voice = read_sound(tmp_path / "one/audio/0000.wav")
    assert len(voice) == 32000
    assert np.corrcoef(voice, read_sound(tmp_path / "one" / row["truth"])[:32000])[0, 1] > 0.95


def test_all_whole_clips(ingested, rows, tmp_path):
    held_out = [row for row in rows.values() if row["split"] == Split.TEST]
    assert write_testset(ingested[0].folder.url, tmp_path / "all", None, None, 0, [], lambda *_: None) == len(held_out)
    lengths = [len(decode_clip(path.read_bytes())) for path in (tmp_path / "all/truth").glob("*.mp4")]
    assert sorted(lengths) == sorted(row["frames"] for row in held_out)


@pytest.mark.parametrize(
    ("clips", "seconds", "keep", "said"),
    [
        (1000, None, [], "1000 are wanted"),
        (1, 60.0, [], "long enough"),
        (None, None, ["yaw_range>90"], "no clip is left"),
    ],
)
def test_too_few(ingested, tmp_path, clips, seconds, keep, said):
    with pytest.raises(UserError, match=said):
        write_testset(ingested[0].folder.url, tmp_path / "none", clips, seconds, 0, keep, lambda *_: None)
    assert list(tmp_path.iterdir()) == []

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from emo_data.errors import UserError
from emo_data.schema import CLIP_SCHEMA, REJECTION_SCHEMA, SCHEMA_VERSION, SUMMARY_SCHEMA, table_of
from emo_data.store import Dataset

FRAMES = 5


def clip(number):
    row = {field.name: "x" for field in CLIP_SCHEMA if pa.types.is_string(field.type)}
    row |= {field.name: number for field in CLIP_SCHEMA if pa.types.is_integer(field.type)}
    row |= {field.name: number + 0.5 for field in CLIP_SCHEMA if pa.types.is_floating(field.type)}
    values = np.arange(FRAMES * 4, dtype=np.float32).reshape(FRAMES, 4) + number
    values[2] = np.nan
    row |= {"box": values, "rotation": values[:, :3].copy(), "translation": values[:, 1:].copy()}
    row |= {"speed": values[:, 0].copy(), "mouth_opening": values[:, 1].copy()}
    row |= {"sound": np.arange(8, dtype=np.int16), "audio_layers": np.array([1, 2], np.int32)}
    return row | {
        "audio_features": np.arange(6, dtype=np.float16),
        "video": bytes([number]) * 9,
        "clip_id": f"c{number}",
    }


def rejection(source):
    row = {"source": source, "source_sha256": "s", "start_seconds": 0.0, "end_seconds": 1.0, "picture": None}
    return row | {"reason": "no_face", "measured": None, "threshold": 0.5, "detail": "none"}


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "data") if request.param == "local" else f"memory://{tmp_path.name}/data"


@pytest.fixture
def dataset(url):
    made = Dataset.create(url, {"size": 64})
    made.write_source("a", "one.mp4", "sha-a", [clip(1), clip(2)], [])
    made.write_source("b", "two.mp4", "sha-b", [clip(3)], [rejection("two.mp4")])
    made.write_source("c", "three.mp4", "sha-c", [], [rejection("three.mp4")])
    return made


def test_what_was_written_is_read_back(dataset, url):
    read = Dataset.open(url)
    assert read.config == {"size": 64}
    places, table = read.clips(["clip_id", "frames"])
    assert table.column("clip_id").to_pylist() == ["c1", "c2", "c3"]
    for place, number in zip(places, (1, 2, 3), strict=True):
        row, expected = read.read_clip(place, CLIP_SCHEMA.names), clip(number)
        for name in CLIP_SCHEMA.names:
            if isinstance(expected[name], np.ndarray):
                assert row[name].dtype == expected[name].dtype
                np.testing.assert_array_equal(row[name], expected[name])
            else:
                assert row[name] == expected[name]
    assert read.rejections().column("source").to_pylist() == ["two.mp4", "three.mp4"]
    assert read.rejections().schema.equals(REJECTION_SCHEMA)
    assert read.verify() == []


def test_millions_of_clips_are_looked_over_without_opening_them(dataset, url):
    """Summaries hold one value of each kind per clip, in the order of the clips."""
    kinds = {field.name: field.type for field in SUMMARY_SCHEMA}
    assert not {"video", "sound", "box", "audio_features"} & kinds.keys()
    read = Dataset.open(url)
    read.folder.delete(read.folder.names("clips"))
    _, table = read.clips(list(kinds))
    assert table.to_pylist() == [
        {
            name: list(value) if name == "audio_layers" else value
            for name, value in clip(number).items()
            if name in kinds
        }
        for number in (1, 2, 3)
    ]


def test_only_the_columns_asked_for_are_read(dataset):
    places, _ = dataset.clips(["clip_id"])
    assert list(dataset.read_clip(places[0], ["speed"])) == ["speed"]


def test_what_no_commit_names_is_not_there(dataset, url):
    before = dataset.clips(["clip_id"])[1].num_rows
    # A writer that died before its commit.
    dataset.write_piece("z", 0, table_of([clip(9)], CLIP_SCHEMA), REJECTION_SCHEMA.empty_table())
    assert Dataset.open(url).clips(["clip_id"])[1].num_rows == before
    assert Dataset.open(url).verify() == []
    assert dataset.sweep() == 2 and dataset.sweep() == 0  # the clips and their summaries
    assert Dataset.open(url).verify() == [] and Dataset.open(url).clips(["clip_id"])[1].num_rows == before


def test_a_source_written_again_replaces_itself(dataset, url):
    dataset.write_source("a", "one.mp4", "sha-a", [clip(1)], [])
    assert Dataset.open(url).clips(["clip_id"])[1].column("clip_id").to_pylist() == ["c1", "c3"]


def test_equal_rows_make_equal_files(dataset):
    first, second = (
        dataset.write_piece(key, 0, table_of([clip(1)], CLIP_SCHEMA), REJECTION_SCHEMA.empty_table()) for key in "xy"
    )
    assert first.clips.sha256 == second.clips.sha256 and first.clips.path != second.clips.path


def test_other_software_can_open_it(tmp_path):
    made = Dataset.create(str(tmp_path / "d"), {})
    made.write_source("a", "one.mp4", "s", [clip(1), clip(2)], [])
    table = pa.parquet.read_table(tmp_path / "d" / "clips")
    assert table.num_rows == 2 and table.schema.equals(CLIP_SCHEMA)


def test_nothing_half_written_and_no_leftovers(tmp_path, monkeypatch):
    made = Dataset.create(str(tmp_path / "d"), {})

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        made.write_source("a", "one.mp4", "s", [clip(1)], [])
    monkeypatch.undo()
    assert not [file for file in (tmp_path / "d").rglob("*") if file.name.startswith(".")]
    assert Dataset.open(str(tmp_path / "d")).commits() == []
    made.write_source("a", "one.mp4", "s", [clip(1)], [])
    assert Dataset.open(str(tmp_path / "d")).verify() == []
    assert not [file for file in (tmp_path / "d").rglob("*") if file.name.startswith(".")]


def test_damage_is_found(tmp_path):
    made = Dataset.create(str(tmp_path / "d"), {})
    for key in "abc":
        made.write_source(key, "one.mp4", "s", [clip(1)], [rejection("one.mp4")])
    clips, summaries, rejections = (tmp_path / "d" / kind for kind in ("clips", "summaries", "rejections"))
    (damaged,), (lost,) = clips.glob("a-*"), rejections.glob("b-*")
    data = bytearray(damaged.read_bytes())
    data[100] ^= 1
    damaged.write_bytes(data)
    lost.unlink()
    next(summaries.glob("a-*")).unlink()
    (tmp_path / "d" / "commits" / "c.json").write_text("{}")
    told = Dataset.open(str(tmp_path / "d")).verify()
    assert len(told) == 4
    assert f"clips/{damaged.name}: checksum" in told[0] and "summaries/a-" in told[1] and "missing" in told[1]
    assert f"rejections/{lost.name}: missing" in told[2] and "c.json" in told[3]


def test_a_reader_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Dataset.open(str(tmp_path / "gone"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UserError, match="not a dataset"):
        Dataset.open(str(tmp_path / "photos"))
    with pytest.raises(UserError, match="not empty"):
        Dataset.create(str(tmp_path / "photos"), {})
    head = Path(tmp_path / "d" / "dataset.json")
    Dataset.create(str(tmp_path / "d"), {})
    head.write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1, "config": {}}))
    with pytest.raises(UserError, match=f"version {SCHEMA_VERSION + 1}"):
        Dataset.open(str(tmp_path / "d"))
    head.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Dataset.open(str(tmp_path / "d"))


def test_a_writer_refuses_other_settings(dataset, url):
    assert Dataset.create(url, {"size": 64}).config == {"size": 64}
    with pytest.raises(UserError, match="size 64, not 128"):
        Dataset.create(url, {"size": 128})


def test_a_folder_with_the_signs_of_a_pattern_is_a_folder(tmp_path):
    made = Dataset.create(str(tmp_path / "a [b]*"), {})
    made.write_source("a", "one.mp4", "s", [clip(1)], [])
    assert [commit.key for commit in Dataset.open(made.url).commits()] == ["a"]


def test_a_missing_or_damaged_object_is_named(tmp_path):
    made = Dataset.create(str(tmp_path / "d"), {})
    made.write_source("a", "one.mp4", "s", [clip(1)], [])
    (stored,) = (tmp_path / "d" / "summaries").glob("a-*")
    stored.write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"summaries/a-.*\.parquet is missing or damaged"):
        made.clips(["clip_id"])
    stored.unlink()
    with pytest.raises(UserError, match="emo data verify"):
        made.clips(["clip_id"])


def test_a_store_that_goes_away_is_said(dataset, monkeypatch):
    places, _ = dataset.clips(["clip_id"])

    def away(*_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(type(dataset.folder), "open", away)
    with pytest.raises(UserError, match=r"clips/a-.* cannot be read: no route to host"):
        dataset.read_clip(places[0], ["speed"])

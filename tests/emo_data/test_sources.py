"""Manifests, identities, splits, names."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_data.errors import UserError
from emo_data.ingest.config import IngestConfig
from emo_data.ingest.plan import Chunk, Survey, Unit, chunks_of, unit_key, view_of
from emo_data.ingest.sources import find_units, on_one_side, printable, split_of

CONFIG = IngestConfig(test_share=0.5, chunk_seconds=30)


def write(path, rows):
    if path.suffix == ".csv":
        columns = list(rows[0])
        lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
        path.write_text("\n".join(lines))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_manifest_names_parts_people_and_sides(tmp_path, ending):
    rows = [
        {"uri": "talks/a.mp4", "start": 1.5, "end": 9.25, "identity": "ann", "split": "test"},
        {"uri": "talks/a.mp4", "start": 20, "end": 30, "identity": "bob", "split": ""},
        {"uri": "/films/b.mp4", "identity": "ann"},
        {"uri": "s3://bucket/c.mp4"},
    ]
    if ending == "jsonl":
        rows[1].pop("split")
    units = on_one_side(find_units([write(tmp_path / f"list.{ending}", rows)], CONFIG), {}, CONFIG)
    by = {(unit.uri, unit.start): unit for unit in units}
    first = by[str(tmp_path / "talks/a.mp4"), 1.5]
    assert (first.end, first.identity, first.split) == (9.25, "ann", "test")
    assert by["/films/b.mp4", None].split == "test"  # a person is on one side with all that shows the person
    assert by[str(tmp_path / "talks/a.mp4"), 20].split == split_of("bob", 0.5)
    assert by["s3://bucket/c.mp4", None].identity == "c"
    assert units == on_one_side(find_units([str(tmp_path / f"list.{ending}")] * 2, CONFIG), {}, CONFIG)


@pytest.mark.parametrize(
    "rows,told",
    [
        ([{"start": 1}], "row 1: has no uri"),
        ([{"uri": "a.mp4"}, {"uri": "b.mp4", "speaker": "x"}], "row 2: column speaker is not known"),
        ([{"uri": "a.mp4", "start": "x"}], "row 1: could not convert"),
        ([{"uri": "a.mp4", "start": -1}], "not a number of seconds"),
        ([{"uri": "a.mp4", "start": float("nan")}], "not a number of seconds"),
        ([{"uri": "a.mp4", "start": 3, "end": 3}], "end 3.0 is not after start 3.0"),
        ([{"uri": "a.mp4", "split": "dev"}], "split dev is none of train, test"),
        (
            [{"uri": "a.mp4", "identity": "i", "split": "test"}, {"uri": "b.mp4", "identity": "i", "split": "train"}],
            "identity i: is in both splits",
        ),
    ],
)
def test_a_wrong_manifest_is_explained(tmp_path, rows, told):
    with pytest.raises(UserError, match=told):
        on_one_side(find_units([write(tmp_path / "list.jsonl", rows)], CONFIG), {}, CONFIG)


def test_a_manifest_that_is_none(tmp_path):
    (tmp_path / "empty.csv").write_text("uri,start\n")
    (tmp_path / "broken.jsonl").write_text("{")
    (tmp_path / "broken.parquet").write_text("{")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    for name in ("empty.csv", "broken.jsonl", "broken.parquet", "list.jsonl", "gone.csv"):
        with pytest.raises(UserError, match=name):
            find_units([str(tmp_path / name)], CONFIG)


def test_any_name_has_a_text(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    with open(name, "wb"):
        pass
    (unit,) = find_units([str(tmp_path)], CONFIG)
    assert os.fsencode(unit.uri) == name and unit.name.endswith("caf\\xe9.mp4") and unit.identity == "caf\\xe9"
    assert printable("/a/émo 🎤.mp4") == "/a/émo 🎤.mp4"


def unit(start=None, end=None):
    return Unit("/a.mp4", "/a.mp4", "a", "train", start, end)


def test_chunks_are_equal_parts_and_their_views_overlap():
    survey = Survey("f" * 64, begin=0.5, seconds=100.0, frames=2500)
    chunks = chunks_of(unit(), "stamp", survey, "key", CONFIG)
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(0, 625), (625, 1250), (1250, 1875), (1875, 2500)]
    views = [view_of(chunk, CONFIG) for chunk in chunks]
    assert (views[0].start, views[-1].stop) == (0, 2500) and views[-1].forget is None
    for before, after, chunk in zip(views, views[1:], chunks[1:], strict=False):
        assert before.forget == after.start == chunk.start - 75 and before.stop == chunk.start + 75
    assert len({chunk.label for chunk in chunks}) == len({chunk.made_from() for chunk in chunks}) == 4


def test_a_named_part_is_a_unit_of_its_own():
    survey = Survey("f" * 64, begin=0.5, seconds=100.0, frames=2500)
    (part,) = chunks_of(unit(10.5, 20.5), "", survey, "key", CONFIG)
    assert (part.first, part.start, part.stop, part.last) == (250, 250, 500, 500)
    beyond = chunks_of(unit(99.5, 500.0), "", survey, "key", CONFIG)
    assert beyond.reason == "too_short" and beyond.measured == 1.0
    keys = [unit_key(one, survey, "form") for one in (unit(), unit(1.0), unit(None, 1.0), unit(1.0, 2.0))]
    assert len(set(keys)) == 4 and unit_key(unit(), survey, "other") not in keys


def test_where_a_chunk_is_read_from_does_not_decide_its_rows():
    chunk = Chunk("k", 0, "/a.mp4", "s", "/a.mp4", "f", "a", "train", 0, 10, 0, 10)
    assert Chunk(**{**vars(chunk), "uri": "/b.mp4", "stamp": "t"}).made_from() == chunk.made_from()
    assert Chunk(**{**vars(chunk), "split": "test"}).made_from() != chunk.made_from()


def test_a_survey_survives_its_file():
    refused = chunks_of(unit(0.0, 0.1), "", Survey("f", 0.0, 100.0, 2500), "key", CONFIG)
    for survey in (Survey("f", 0.5, 4.0, 100), Survey("", refused=refused)):
        assert Survey.from_json(survey.to_json()) == survey

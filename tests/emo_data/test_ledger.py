"""Attempts, and chunks that are done."""

from dataclasses import replace

import pytest

from emo_data.errors import UserError
from emo_data.features.audio import AudioEncoder
from emo_data.ingest.contain import Limits
from emo_data.ingest.ledger import TRIES_IN_A_RUN, TRIES_IN_ALL, Ledger
from emo_data.ingest.plan import Chunk, chunks_of, unit_key
from emo_data.ingest.run import ingest
from emo_data.ingest.sources import find_units
from emo_data.ingest.worker import Setup, Worker
from emo_data.objects import Folder, stamp
from emo_data.store import Dataset, Piece
from tests.emo_data.conftest import CONFIG

CHUNK = Chunk("k", 0, "/a.mp4", "s", "/a.mp4", "f", "a", "train", 0, 10, 0, 10)
PIECE = Piece(None, None, None, 4.0, {"no_face": 1})


def test_a_chunk_that_kills_its_worker_is_condemned(tmp_path):
    folder = Folder(str(tmp_path))
    ledger = Ledger(folder, "one run")
    assert [ledger.begin(CHUNK) for _ in range(TRIES_IN_A_RUN + 1)] == [True] * TRIES_IN_A_RUN + [False]
    assert ledger.begin(replace(CHUNK, piece=1))


def test_runs_that_were_interrupted_condemn_a_chunk_only_in_the_end(tmp_path):
    folder = Folder(str(tmp_path))
    begun = [Ledger(folder, f"run {number}").begin(CHUNK) for number in range(TRIES_IN_ALL + 1)]
    assert begun == [True] * TRIES_IN_ALL + [False]
    assert Ledger(folder, "another").begin(replace(CHUNK, sha256="another content"))


def test_what_is_done_is_known_to_the_next_run(tmp_path):
    folder = Folder(str(tmp_path))
    first = Ledger(folder, "first")
    first.begin(CHUNK)
    assert first.piece(CHUNK) is None and first.finished() == {}
    first.finish(CHUNK, PIECE)
    second = Ledger(folder, "second")
    assert second.piece(CHUNK) == PIECE and second.finished() == {(CHUNK.label, CHUNK.made_from()): PIECE}
    assert second.piece(replace(CHUNK, identity="another")) is None
    second.forget([CHUNK])
    assert second.finished() == {}


@pytest.fixture
def worker_and_chunk(sample, tmp_path):
    source = sorted((sample / "clips").glob("look*.mp4"))[0]
    dataset = Dataset.create(str(tmp_path / "data"), {})
    setup = Setup(dataset.url, "run", CONFIG, AudioEncoder.load("tiny").fingerprint, Limits())
    with Worker(setup) as worker:
        (unit,) = find_units([str(source)], CONFIG)
        survey = worker.survey(unit.uri)
        (chunk,) = chunks_of(unit, stamp(unit.uri), survey, unit_key(unit, survey, "f"), CONFIG)
        yield worker, chunk


def test_a_worker_that_is_given_a_chunk_again_does_it_once(worker_and_chunk):
    """Ray gives a worker's whole block to the next one: what is done must be neither done again nor condemned."""
    worker, chunk = worker_and_chunk
    first = worker.ingest(chunk)
    assert first.piece.clips.rows == 1
    assert [worker.ingest(chunk) for _ in range(TRIES_IN_A_RUN + 2)] == [first] * (TRIES_IN_A_RUN + 2)


def test_a_crash_loop_is_a_rejection(worker_and_chunk):
    worker, chunk = worker_and_chunk
    for _ in range(TRIES_IN_A_RUN):
        worker._ledger.begin(chunk)  # and died
    receipt = worker.ingest(chunk)
    assert receipt.piece.clips is None and receipt.piece.reasons == {"crash_loop": 1} and receipt.piece.faults == 1


def test_a_source_that_changes_meanwhile_is_left_for_the_next_run(worker_and_chunk):
    worker, chunk = worker_and_chunk
    assert worker.ingest(replace(chunk, stamp="another")).piece is None
    assert worker.ingest(replace(chunk, uri="/gone.mp4")).piece is None


def test_a_person_stays_on_one_side_from_run_to_run(sample, tmp_path):
    names = sorted((sample / "clips").glob("look*.mp4"))
    (tmp_path / "list.csv").write_text(f"uri,identity,split\n{names[0]},ann,test\n")
    out, config = str(tmp_path / "data"), CONFIG.model_copy(update={"identity_pattern": None, "test_share": 0.0})
    ingest([str(tmp_path / "list.csv")], out, config)
    (tmp_path / "more.csv").write_text(f"uri,identity\n{names[1]},ann\n")
    ingest([str(tmp_path / "more.csv")], out, config)
    assert Dataset.open(out).clips(["split"])[1].column("split").to_pylist() == ["test", "test"]
    (tmp_path / "more.csv").write_text(f"uri,identity,split\n{names[2]},ann,train\n")
    with pytest.raises(UserError, match="identity ann: is in both splits"):
        ingest([str(tmp_path / "more.csv")], out, config)

"""Jobs on the disk: each is accepted once, ends once, and is there after whatever ended the process."""

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from emo_core.serving.journal import Full, Journal, KeyTaken, new_id
from emo_core.serving.wish import State, Wish
from emo_data.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


def accept(journal, key=None, digest="d", limit=100):
    return journal.accept(new_id(), Wish(seed=7), 50, digest, key, limit)


def test_what_was_accepted_is_there_in_its_order_after_a_death(path, tmp_path):
    """The files as they are, without closing anything."""
    journal = Journal(path)
    jobs = [accept(journal) for _ in range(3)]
    journal.advance(jobs[1].id, 20)
    journal.end(jobs[0].id, State.DONE)
    left = tmp_path / "left"
    left.mkdir()
    for file in tmp_path.glob("journal*"):
        shutil.copy(file, left)
    again = Journal(left / path.name)
    assert [job.id for job in again.open_jobs()] == [jobs[1].id, jobs[2].id]
    assert again.get(jobs[1].id).state == State.RUNNING and again.get(jobs[1].id).progress == 0.4
    assert again.get(jobs[0].id).progress == 1 and again.get(jobs[0].id).wish == Wish(seed=7)
    assert again.counts() == {"queued": 1, "running": 1, "done": 1, "failed": 0, "cancelled": 0}


def test_a_key_stands_for_one_job_however_many_ask_at_once(path):
    journal = Journal(path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: accept(journal, "key").id, range(40)))
    assert len(set(found)) == 1 and len(journal.open_jobs()) == 1
    assert journal.known("key", "d").id == found[0] and journal.known("other", "d") is None
    with pytest.raises(KeyTaken):
        accept(journal, "key", digest="another request")


def test_no_more_than_the_limit_wait_however_many_ask_at_once(path):
    journal = Journal(path)

    def asked(_):
        try:
            return accept(journal, limit=5)
        except Full:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = [job for job in pool.map(asked, range(40)) if job]
    assert len(found) == 5 == len(journal.open_jobs())
    journal.end(found[0].id, State.FAILED, "why")
    assert accept(journal, limit=5)


def test_what_is_over_stays_so(path):
    journal = Journal(path)
    job = accept(journal).id
    assert journal.end(job, State.CANCELLED)
    assert not journal.end(job, State.DONE) and not journal.advance(job, 9) and not journal.wait(job)
    assert journal.get(job).state == State.CANCELLED and journal.get(job).frames_done == 0


def test_progress_does_not_go_back(path):
    """A second attempt begins where its clips begin."""
    journal = Journal(path)
    job = accept(journal).id
    journal.advance(job, 30)
    journal.wait(job)
    assert journal.get(job).state == State.QUEUED
    journal.advance(job, 10)
    assert journal.get(job).frames_done == 30


def test_old_jobs_are_forgotten_and_their_keys_with_them(path):
    journal = Journal(path)
    job = accept(journal, "key").id
    journal.end(job, State.DONE)
    ended = journal.get(job).ended
    waits = accept(journal).id
    assert journal.ends() == {job: ended, waits: None} and ended is not None
    journal.forget(job)
    assert journal.get(job) is None and accept(journal, "key", "another").id != job


def test_another_version_is_refused(path):
    Journal(path).close()
    base = sqlite3.connect(path)
    base.execute("pragma user_version = 9")
    base.close()
    with pytest.raises(UserError, match="version 9"):
        Journal(path)


def test_two_services_do_not_share_a_journal(path):
    """The second would carry out what the first does already; once that has ended it may."""
    Journal(path).close()
    journal = Journal(path)
    for _ in range(2):
        with pytest.raises(UserError, match="another service"):
            Journal(path, patience=0)
    job = accept(journal).id
    journal.close()
    assert Journal(path, patience=0).get(job)


@pytest.mark.parametrize(
    "given",
    [
        {"speed": "/etc/passwd"},
        {"speed": "curve.csv"},
        {"speed": "nan"},
        {"speed": "3"},
        {"region": "mask.png"},
        {"region": "0.1,0.2,0.3"},
        {"region": "0.5,0,0.4,1"},
        {"region": "0,0,1,inf"},
        {"steps": 0},
        {"guidance": 2, "audio_scale": 3},
        {"scheduler": "diffusers.Euler"},
        {"out": "/tmp/x"},
    ],
)
def test_a_wish_names_no_file_and_no_nonsense(given):
    with pytest.raises(ValueError):
        Wish.model_validate(given)

"""One ingestion at a time, on a disk and in a store."""

import json
import subprocess
import sys
import threading

import psutil
import pytest

from emo_data import lease as lease_module
from emo_data.errors import UserError
from emo_data.lease import leased
from emo_data.objects import Folder


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return Folder(str(tmp_path / "data") if request.param == "local" else f"memory://{tmp_path.name}/data")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease_module, "DEAD_AFTER", 1.0)


def held_by(folder, **holder):
    folder.write("work/lease/00000007.json", json.dumps({"token": "x", **holder}).encode())


def test_a_second_ingestion_is_refused_and_a_later_one_is_not(folder):
    with leased(folder, "ingestion") as lease:
        lease.check()
        with pytest.raises(UserError, match="another ingestion is writing it"), leased(folder, "ingestion"):
            pass
        lease.check()
    assert folder.names("work/lease") == []
    with leased(folder, "ingestion") as lease:
        lease.check()


def test_a_dead_process_of_this_machine_is_succeeded_at_once(folder):
    gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    born = psutil.Process(gone.pid).create_time()
    held_by(folder, host=lease_module._self()["host"], pid=gone.pid, born=born)
    with pytest.raises(UserError, match=f"process {gone.pid}"), leased(folder, "ingestion"):
        pass
    gone.kill()
    gone.wait()
    with leased(folder, "ingestion") as lease:
        lease.check()
        assert folder.names("work/lease")[-1] == "work/lease/00000008.json"


def test_a_process_of_another_machine_is_judged_by_its_beats(folder):
    held_by(folder, host="elsewhere 1", pid=1, born=0.0)
    over = threading.Event()

    def beat():
        count = 0
        while not over.wait(0.05):
            count += 1
            folder.write("work/lease/00000007.beat", str(count).encode())

    heart = threading.Thread(target=beat)
    heart.start()
    with pytest.raises(UserError, match="on elsewhere"), leased(folder, "ingestion"):
        pass
    over.set()
    heart.join()
    with leased(folder, "ingestion"):
        pass


def test_who_stood_still_too_long_learns_that_he_was_succeeded(folder, monkeypatch):
    with leased(folder, "ingestion") as lease:
        monkeypatch.setattr(lease, "_checked", -1e9)
        lease.check()
        folder.write("work/lease/00000002.json", b'{"token": "another"}')
        monkeypatch.setattr(lease, "_checked", -1e9)
        with pytest.raises(UserError, match="took over"):
            lease.check()
    assert folder.names("work/lease")[-1:] == ["work/lease/00000002.json"]  # not his to give back


def test_of_many_who_find_a_dead_one_a_single_one_succeeds(folder):
    gone = {"host": lease_module._self()["host"], "pid": 2**22 + 1, "born": 0.0}
    held_by(folder, **gone)
    ready, over, won, lost = threading.Barrier(8), threading.Event(), [], []

    def attempt():
        ready.wait()
        try:
            with leased(folder, "ingestion"):
                won.append(1)
                over.wait(5)
        except UserError:
            lost.append(1)
        if len(lost) == 7:
            over.set()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)

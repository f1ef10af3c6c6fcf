"""Kills, while the store behind it all fails now and then."""

import pytest
import s3fs

from emo_data.objects import Folder
from tests.chaos.ingest_kills import KINDS
from tests.emo_data.kills import NOBODY, Kill, content, run_ingest
from tests.s3 import Faults, fault_proxy, s3_environment, s3_server


@pytest.fixture(scope="module")
def store(sources):
    faults = Faults()
    with s3_server() as endpoint, fault_proxy(endpoint, faults) as proxy, s3_environment(proxy):
        s3fs.S3FileSystem().mkdir("s3://films")
        for path in sources.iterdir():
            Folder("s3://films/in").write(path.name, path.read_bytes())
        yield faults


def test_killed_drivers_and_a_failing_store(store, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    assert run_ingest(["s3://films/in"], "s3://films/plain", folder, NOBODY, workers=0) == 0
    plain = content("s3://films/plain")
    kills = [Kill("driver", kind, 1, when) for kind in KINDS for when in ("before", "after")]
    kills += [Kill("driver", "commits/", nth, "after") for nth in (2, 4)] + [Kill("child", "scan", 2)]
    wrong = {}
    for number, kill in enumerate(kills):
        folder, out = tmp_path / str(number), f"s3://films/{number}"
        folder.mkdir()
        store.share = 0.15
        first = run_ingest(["s3://films/in"], out, folder, kill, workers=0)
        if first:
            run_ingest(["s3://films/in"], out, folder, NOBODY, workers=0)
        store.share = 0.0
        same = content(out) == plain
        killed = bool(list(folder.glob("done-*"))) and (first == -9) == (kill.role == "driver")
        print(
            f"{kill}: {'as if nothing had happened' if same and killed else f'same {same}, killed {killed}'}",
            flush=True,
        )
        if not (same and killed):
            wrong[kill] = (same, killed)
    print(f"{len(kills) - len(wrong)} of {len(kills)} kills left no trace; faults: {dict(store.happened)}")
    assert not wrong


def test_two_workers_and_a_failing_store(store, tmp_path):
    folder = tmp_path / "workers"
    folder.mkdir()
    store.share = 0.15
    try:
        assert run_ingest(["s3://films/in"], "s3://films/workers", folder, NOBODY, workers=2) == 0
    finally:
        store.share = 0.0
    assert run_ingest(["s3://films/in"], "s3://films/workers0", folder, NOBODY, workers=0) == 0
    assert content("s3://films/workers") == content("s3://films/workers0")

"""Whoever is killed, and whenever: the next run ends with the dataset of a run that nobody disturbed."""

import pytest

from tests.emo_data.kills import NOBODY, Kill, content, make_sources, run_ingest, writes


@pytest.fixture(scope="module")
def sources(sample, tmp_path_factory):
    return make_sources(sorted((sample / "clips").glob("look*.mp4")), tmp_path_factory.mktemp("kills") / "in")


@pytest.fixture(scope="module")
def undisturbed(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_ingest([str(sources)], str(folder / "data"), folder, NOBODY, workers=0) == 0
    found = content(str(folder / "data"))
    assert len(found["clips"]) == 10 and len(found["rejections"]) == 1 and not found["work"]
    assert sum(name.startswith("commits/") for _, name in writes(folder)) == 4
    return found


@pytest.mark.parametrize(
    "kill",
    [
        Kill("driver", "commits/", 3, "half"),
        Kill("driver", "clips/", 2, "after"),
        Kill("child", "scan", 2),
        Kill("actor", "clips/", 1, "after"),
    ],
    ids=lambda kill: f"{kill.role} {kill.when} {kill.what}{kill.nth}",
)
def test_a_killed_run_is_taken_up(kill, sources, undisturbed, tmp_path):
    out = str(tmp_path / "data")
    workers = 2 if kill.role == "actor" else 0
    first = run_ingest([str(sources)], out, tmp_path, kill, workers)
    assert first == (-9 if kill.role == "driver" else 0)  # others are replaced, and nobody need run anything again
    assert list(tmp_path.glob("done-*"))
    if first:
        assert run_ingest([str(sources)], out, tmp_path, NOBODY, workers) == 0
    assert content(out) == undisturbed

"""SIGKILL of driver, actor and child at each write and commit point, before, halfway and after it."""

import pytest

from tests.emo_data.kills import NOBODY, Kill, content, run_ingest

KINDS = ("dataset.json", "work/lease", "work/survey", "work/chunks", "clips/", "rejections/", "commits/")


def points(undisturbed, role, kinds):
    """Every write of these kinds, three times."""
    _, names = undisturbed
    counts = {kind: sum(name.startswith(kind) for name in names) for kind in kinds}
    assert all(counts.values()), counts
    return [
        Kill(role, kind, nth, when)
        for kind, count in counts.items()
        for nth in range(1, count + 1)
        for when in ("before", "half", "after")
    ]


def carried_on(kill, sources, undisturbed, folder, workers):
    """What is wrong after a run with this kill and, where that ended it, another one."""
    folder.mkdir()
    out = str(folder / "data")
    try:
        first = run_ingest([str(sources)], out, folder, kill, workers)
        happened = bool(list(folder.glob("done-*")))
        if first:
            run_ingest([str(sources)], out, folder, NOBODY, workers)
        problem = "" if content(out) == undisturbed[0] else "another dataset"
        if (first == -9) != (kill.role == "driver") or not happened:
            problem += f" exit code {first}, killed: {happened}"
    except AssertionError as error:
        problem = str(error)
    print(f"{kill}: {problem or 'as if nothing had happened'}", flush=True)
    return problem


def survived(kills, sources, undisturbed, folder, workers):
    wrong = {}
    for number, kill in enumerate(kills):
        if problem := carried_on(kill, sources, undisturbed, folder / str(number), workers):
            wrong[kill] = problem
    print(f"{len(kills) - len(wrong)} of {len(kills)} kills left no trace")
    assert not wrong


def test_the_driver_in_one_process(sources, undisturbed, tmp_path):
    survived(points(undisturbed, "driver", KINDS), sources, undisturbed, tmp_path, workers=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_child(sources, undisturbed, tmp_path, workers):
    survived([Kill("child", "scan", nth) for nth in (1, 2)], sources, undisturbed, tmp_path, workers)


def test_an_actor(sources, undisturbed, tmp_path):
    kills = [
        Kill("actor", kind, nth, when)
        for kind in ("work/chunks", "clips/")
        for nth in (1, 2)
        for when in ("before", "half", "after")
    ]
    survived(kills, sources, undisturbed, tmp_path, workers=2)


def test_the_driver_of_a_cluster(sources, undisturbed, tmp_path):
    kills = [Kill("driver", "commits/", nth, when) for nth in (1, 3) for when in ("before", "after")]
    survived([*kills, Kill("driver", "work/survey")], sources, undisturbed, tmp_path, workers=2)

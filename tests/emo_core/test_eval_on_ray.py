"""Workers that die."""

import os

from emo_core.evaluation import on_ray
from emo_core.evaluation.extractors import Setup
from emo_core.evaluation.watch import Job, Unseen


def test_only_the_file_that_kills_is_blamed(monkeypatch):
    class Fragile:
        def __init__(self, *_):
            pass

        def look(self, job):
            if job.path == "deadly":
                os._exit(1)
            return Unseen(f"{job.path}: fine")

    monkeypatch.setattr(on_ray, "_Watcher", Fragile)
    names = ["a", "b", "deadly", "c", "d", "deadly", "e"]
    with on_ray.ray_hands(1)(Setup(("fid",))) as work:
        said = [answer.problem for answer in work(Job(name) for name in names)]
    assert said == [f"{name}: " + ("whoever looks at it dies" if name == "deadly" else "fine") for name in names]

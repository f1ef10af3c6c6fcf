"""SIGKILLs over one training run, at random writes and steps: on a disk, and in a store that fails now and then."""

import random

import pytest
import s3fs

from emo_data.objects import Folder
from tests.emo_core.kills import WHEN, run_once
from tests.emo_core.runs import losses, names, same_weights
from tests.s3 import Faults, fault_proxy, s3_environment, s3_server

NUMBERS = {"steps": 90, "checkpoint_every": 2, "ema_decay": 0.9, "learning_rate": 1e-3, "batch": 4, "micro_batch": 2}
KILLS = {"disk": 50, "store": 15}


def killed_over_and_over(told, out, whole, folder, kills):
    """Kill a run so many times, each time somewhere in what it does next; how often its start was the last."""
    rng, done = random.Random(0), 0
    while True:
        log = folder / f"log{done}"
        # What a start writes before its first step, and up to three steps with their checkpoints.
        kill = (rng.randint(1, 14), rng.choice(WHEN)) if done < kills else None
        if run_once(log, kill, out=out, **told) == 0:
            break
        done += 1
        kept = [name for name in Folder(out).names("checkpoints") if name.rpartition("/")[2].isdigit()]
        assert len(kept) <= 4, kept  # two whole ones, one being written, one being removed
        print(f"kill {done}: {kill[1]} {log.read_text().splitlines()[-1]}", flush=True)
    assert losses(out) == losses(whole)
    assert same_weights(f"{out}/model", f"{whole}/model")
    assert names(out) == names(whole)
    return done


@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_run_that_is_killed_over_and_over(where, data, smallest, tmp_path):
    told = {"stage": 1, "data": data, "init": None, "numbers": NUMBERS}
    if where == "disk":
        run_once(tmp_path / "log", out=str(tmp_path / "whole"), **told)
        done = killed_over_and_over(told, str(tmp_path / "run"), str(tmp_path / "whole"), tmp_path, KILLS[where])
    else:
        faults = Faults()
        with s3_server() as endpoint, fault_proxy(endpoint, faults) as proxy, s3_environment(proxy):
            s3fs.S3FileSystem().mkdir("s3://runs")
            run_once(tmp_path / "log", out="s3://runs/whole", **told)
            faults.share = 0.15
            done = killed_over_and_over(told, "s3://runs/run", "s3://runs/whole", tmp_path, KILLS[where])
            print(f"spoiled requests: {dict(faults.happened)}")
    print(f"{where}: {done} kills, as if nothing had happened", flush=True)
    assert done == KILLS[where]

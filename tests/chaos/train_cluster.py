"""What clouds do to a run in many processes: a machine that is taken away with notice, and one without."""

import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from emo_core.training.crew import Crew
from emo_core.training.plan import plan
from emo_core.training.run import carry_out
from tests.emo_core.runs import CPU, finished, losses, recipe

NUMBERS = {"steps": 400, "checkpoint_every": 100, "batch": 4, "micro_batch": 1, "learning_rate": 1e-4}


@pytest.mark.parametrize("notice", [True, False])
def test_a_machine_is_taken_away(data, smallest, tmp_path, monkeypatch, notice):
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    finished(1, data, tmp_path / "whole", **NUMBERS)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    lost, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False)
    planned = plan(recipe(1, **NUMBERS), data, tmp_path / "run")
    told, kept = [], []

    def on_step(done: int, _total: int, note: str) -> None:
        told.append((done, note))
        if done > 10 and not disturber.is_alive() and disturber.ident is None:
            disturber.start()

    def disturb() -> None:
        if notice:
            command = [
                "-m",
                "ray.scripts.scripts",
                "drain-node",
                "--address",
                cluster.address,
                "--node-id",
                lost.node_id,
            ]
            command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
            command += ["--deadline-remaining-seconds", "20"]
            subprocess.run([sys.executable, *command], check=True)
            for _ in range(200):
                kept.extend(step for step in planned.run.checkpoints() if step % 100)
                if kept:
                    break
                time.sleep(0.1)
        cluster.remove_node(lost, allow_graceful=False)

    disturber = threading.Thread(target=disturb)
    try:
        carry_out(planned, CPU, Crew(workers=(1, 2), address=cluster.address), on_step=on_step)
        disturber.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    back = max((before - after for (before, _), (after, _) in pairwise(told)), default=0)
    print(f"notice: {notice}, kept at once: {kept[:1]}, went back {back} steps, {Path(planned.run.url).name} is whole")
    assert bool(kept) == notice

"""A run in several processes is the run in one: same losses, also where one of them is killed."""

import os
import signal
from contextlib import suppress

import numpy as np
import psutil
import pytest

from emo_core.training.crew import Crew
from emo_core.training.loop import Notice, StoppedError
from emo_core.training.on_ray import train_on_ray
from emo_core.training.plan import plan
from emo_data.errors import UserError
from emo_data.on_ray import connected
from emo_data.schema import SAMPLE_RATE
from tests.emo_core.runs import finished, losses, make_dataset, recipe, weights

pytestmark = pytest.mark.usefixtures("smallest")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests here."""
    with connected("local", 3):
        yield


def with_workers(
    stage, data, folder, init=None, workers=(2, 2), on_step=lambda *_: None, notice=lambda: Notice.NONE, **changes
):
    """A run by two workers."""
    planned = plan(recipe(stage, **changes), data, folder, init)
    train_on_ray(planned, Crew(workers=workers), on_step=on_step, notice=notice)


@pytest.mark.parametrize("stage", [1, 3])
def test_two_workers_learn_what_one_learns(data, tmp_path, models, stage):
    numbers = {"batch": 4, "micro_batch": 1, "learning_rate": 1e-3, "ema_decay": 0.9}
    finished(stage, data, tmp_path / "one", models[stage - 1], **numbers)
    with_workers(stage, data, tmp_path / "two", models[stage - 1], **numbers)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = weights(tmp_path / "one" / "model"), weights(tmp_path / "two" / "model")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4


def workers_of_ray() -> list[psutil.Process]:
    """Of this process's Ray: another may run beside it."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found += [one] if "RayTrainWorker" in " ".join(one.cmdline()) else []
    return found


def test_a_killed_worker_is_replaced_and_the_losses_are_those_of_an_undisturbed_run(data, tmp_path):
    numbers = {"steps": 60, "checkpoint_every": 7}
    with_workers(1, data, tmp_path / "whole", **numbers)
    killed = []

    def kill_one(done: int, _total: int, _note: str) -> None:
        if done > 8 and not killed:
            killed.append(workers_of_ray()[-1])
            os.kill(killed[0].pid, signal.SIGKILL)

    with_workers(1, data, tmp_path / "killed", on_step=kill_one, **numbers)
    assert killed
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    one, two = weights(tmp_path / "whole" / "model"), weights(tmp_path / "killed" / "model")
    assert all((one[name] == two[name]).all() for name in one)
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


def test_a_run_that_is_asked_to_stop_keeps_its_last_step_and_another_number_of_workers_goes_on(data, tmp_path):
    numbers = {"steps": 40, "checkpoint_every": 100}
    seen = []
    with pytest.raises(StoppedError, match="which is kept"):
        with_workers(
            1,
            data,
            tmp_path / "run",
            on_step=lambda done, *_: seen.append(done),
            notice=lambda: Notice.STOP if seen and seen[-1] > 2 else Notice.NONE,
            **numbers,
        )
    (kept,) = plan(recipe(1, **numbers), data, tmp_path / "run").run.checkpoints()
    assert 2 < kept < 40
    finished(1, data, tmp_path / "run", **numbers)
    finished(1, data, tmp_path / "whole", **numbers)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_workers_that_die_over_and_over_are_given_up(data, tmp_path):
    def kill_all(*_: object) -> None:
        for one in workers_of_ray():
            one.kill()

    with pytest.raises(RuntimeError, match="died 3 times in a row"):
        with_workers(1, data, tmp_path / "run", workers=(1, 1), on_step=kill_all, steps=500, checkpoint_every=500)


def test_what_is_wrong_in_a_worker_is_said_as_if_there_were_none(data, tmp_path, encoder, config):
    spoilt = encoder.encode(np.zeros(SAMPLE_RATE, np.float32), 24, 25).reshape(-1) * np.float16("nan")
    bad = make_dataset(str(tmp_path / "bad"), encoder, config.size, audio_features=spoilt)
    first = finished(1, data, tmp_path / "first", steps=1)
    with pytest.raises(UserError, match=r"clip clip\d: its audio features"):
        with_workers(2, bad, tmp_path / "run", first, workers=(1, 1))


def test_there_may_be_fewer_workers_than_were_wished_for(data, tmp_path):
    """Three share a batch of four unevenly where there is no room for a fourth; the losses are the same."""
    numbers = {"batch": 4, "micro_batch": 1, "steps": 5}
    with_workers(1, data, tmp_path / "few", workers=(1, 4), **numbers)
    finished(1, data, tmp_path / "one", **numbers)
    assert losses(tmp_path / "few") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)

"""A run in several processes is the run in one: same losses, also where one of them is killed."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from emo_core.training.loop import Notice, StoppedError
from emo_core.training.on_ray import train_on_ray
from emo_core.training.prepare import plan
from tests.emo_core.runs import finished, metrics, recipe, weights

pytestmark = pytest.mark.usefixtures("smallest")


def with_workers(stage, data, folder, init=None, workers=2, on_step=lambda *_: None, notice=lambda: Notice.NONE, **changes):
    train_on_ray(
        plan(recipe(stage, **changes), data, folder, init),
        workers=(workers, workers),
        address="local",
        accelerator=None,
        gpu=False,
        processes=0,
        on_step=on_step,
        notice=notice,
    )


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder)]


@pytest.mark.parametrize("stage", [1, 3])
def test_two_workers_learn_what_one_learns(data, tmp_path, models, stage):
    numbers = {"batch": 4, "micro_batch": 1, "learning_rate": 1e-3, "ema_decay": 0.9}
    finished(stage, data, tmp_path / "one", models[stage - 1], **numbers)
    with_workers(stage, data, tmp_path / "two", models[stage - 1], **numbers)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = weights(tmp_path / "one" / "model"), weights(tmp_path / "two" / "model")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4

"""A run that was killed, however often and at whatever moment, ends as if nothing had happened."""

import random

import pytest

from tests.emo_core.kills import WHEN, run_once
from tests.emo_core.runs import losses, names, same_weights

pytestmark = pytest.mark.usefixtures("smallest")
NUMBERS = {"steps": 9, "checkpoint_every": 2, "ema_decay": 0.9, "learning_rate": 1e-3}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_killed_run_goes_on_to_the_same_end(data, tmp_path, models, stage):
    """Once in every stage: half-way through a checkpoint, before its marker, or in the middle of the last steps."""
    told = {"stage": stage, "data": data, "init": models[stage - 1] and str(models[stage - 1]), "numbers": NUMBERS}
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    assert run_once(log, out=str(whole), **told) == 0
    events = log.read_text().splitlines()
    rng = random.Random(stage)
    target = {1: "checkpoints/4/optimizer", 2: "checkpoints/6/complete", 3: "step 7"}[stage]
    event = next(number for number, name in enumerate(events, start=1) if target in name)
    assert run_once(
        tmp_path / "again", (event, {1: "half", 2: "before", 3: rng.choice(WHEN)}[stage]), out=str(killed), **told
    )
    assert run_once(tmp_path / "again", out=str(killed), **told) == 0
    assert losses(killed) == losses(whole)
    assert same_weights(killed / "model", whole / "model")
    assert names(killed) == names(whole)

"""One stage of training."""

from typing import Any

from prefect import flow

from flows.deployed.ending import stop_jobs
from flows.deployed.limits import gpus
from flows.forms import TrainForm, Where
from flows.watch import carry_out


@flow(name="train", flow_run_name="stage {what.stage} {what.out}", on_cancellation=[stop_jobs], on_crashed=[stop_jobs])
def train(what: TrainForm, where: Where = Where()) -> dict[str, Any]:
    """Train one stage; the result is the run's model. Run again, an unfinished run goes on where it stopped."""
    with gpus(what.workers or 1, what.device):
        board = f"tensorboard --logdir {what.out}/tensorboard"
        return carry_out("train", what, where, {"run": what.out, "model": f"{what.out}/model", "TensorBoard": board})

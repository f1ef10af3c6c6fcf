"""One stage of training."""

from typing import Any

from prefect import flow

from flows.deployed.ending import stop_jobs
from flows.deployed.limits import gpus
from flows.forms.train import TrainForm
from flows.forms.where import HERE, Where
from flows.watch import carry_out


@flow(name="train", flow_run_name="stage {what.stage} {what.out}", on_cancellation=[stop_jobs], on_crashed=[stop_jobs])
def train(what: TrainForm, where: Where = HERE) -> dict[str, Any]:
    """Train one stage; the result is the run's model. Run again, an unfinished run goes on where it stopped."""
    return trained(what, where)


def trained(what: TrainForm, where: Where, step: str = "") -> dict[str, Any]:
    """As a step of any flow."""
    board = f"tensorboard --logdir {what.out}/tensorboard"
    places = {"dataset": what.data, "run": what.out, "model": f"{what.out}/model", "TensorBoard": board}
    count = None if what.workers is None else max(what.workers, 1)  # uncounted, they are one for each GPU
    with gpus(count, what.device, where):
        return carry_out("train", what, where, places, step)

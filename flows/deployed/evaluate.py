"""Videos, or a model, are scored."""

from typing import Any

from prefect import flow

from flows.deployed.ending import stop_jobs
from flows.deployed.limits import gpus
from flows.forms.evaluate import EvaluateForm
from flows.forms.where import HERE, Where
from flows.watch import carry_out


@flow(name="evaluate", flow_run_name="evaluate {what.out}", on_cancellation=[stop_jobs], on_crashed=[stop_jobs])
def evaluate(what: EvaluateForm, where: Where = HERE) -> dict[str, Any]:
    """Generated videos against the truth: FID, FVD, sync, F-SIM, E-FID, motion. A model makes its videos first."""
    return evaluated(what, where)


def evaluated(what: EvaluateForm, where: Where) -> dict[str, Any]:
    """As a step of any flow."""
    places = {"report": f"{what.out}/report.json", "videos": what.generated or f"{what.out}/generated"}
    with gpus(1, what.device, where):
        return carry_out("evaluate", what, where, places)

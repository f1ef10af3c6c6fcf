"""The whole road: from videos to a model in service."""

from typing import Any, Literal

from prefect import flow

from flows.deployed.ending import stop_jobs
from flows.deployed.evaluate import evaluated
from flows.deployed.ingest import ingested
from flows.deployed.serve import check, served
from flows.deployed.train import trained
from flows.forms.full import FullForm
from flows.forms.where import HERE, Where

_STAGES: tuple[Literal[1, 2, 3], ...] = (1, 2, 3)


@flow(name="full", flow_run_name="full {what.out}", on_cancellation=[stop_jobs], on_crashed=[stop_jobs])
def full(what: FullForm, where: Where = HERE) -> dict[str, Any]:
    """Ingest, train stages 1, 2 and 3, evaluate, deploy. Run again, it goes on with the step that was not finished."""
    _check(what, where)
    clips, model = ingested(what.ingestion(), where)["clips"], None
    for stage in _STAGES:
        model = trained(what.stage(stage, model), where, step=str(stage))["model"]
    report = evaluated(what.evaluation(str(model)), where)
    service = what.serving(str(model))
    return {"clips": clips, "model": model, **report, "service": service and served(service, where)}


def _check(what: FullForm, where: Where) -> None:
    """UserError for what its last step would refuse: days would have passed."""
    model = what.place("stage3/model")
    stages = [what.stage(stage, None if stage == 1 else model) for stage in _STAGES]
    for form in (what, what.ingestion(), *stages, what.evaluation(model)):
        where.check(form)
    if service := what.serving(model):
        check(service, where)

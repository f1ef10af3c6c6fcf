"""Videos become a dataset."""

from typing import Any

from prefect import flow

from flows.deployed.ending import stop_jobs
from flows.deployed.limits import one_at_a_time
from flows.forms.ingest import IngestForm
from flows.forms.where import HERE, Where
from flows.watch import carry_out


@flow(name="ingest", flow_run_name="ingest {what.out}", on_cancellation=[stop_jobs], on_crashed=[stop_jobs])
def ingest(what: IngestForm, where: Where = HERE) -> dict[str, Any]:
    """Videos become rows: find the face, crop, measure, hear, store. Run again, it does what is missing."""
    return ingested(what, where)


def ingested(what: IngestForm, where: Where) -> dict[str, Any]:
    """As a step of any flow."""
    with one_at_a_time("dataset", what.out):
        return carry_out("ingest", what, where, {"dataset": what.out})

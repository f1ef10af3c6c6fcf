"""Many videos, by a service."""

from typing import Any

from prefect import flow

from flows.deployed.ending import stop_jobs
from flows.deployed.limits import one_at_a_time
from flows.forms.generate import GenerateForm
from flows.forms.where import HERE, Where
from flows.watch import carry_out


@flow(name="generate", flow_run_name="generate {what.out}", on_cancellation=[stop_jobs], on_crashed=[stop_jobs])
def generate(what: GenerateForm, where: Where = HERE) -> dict[str, Any]:
    """A manifest's videos, made by a service that is there. Run again, it makes what is missing."""
    with one_at_a_time("batch", what.out):
        return carry_out("generate", what, where, {"videos": what.out, "service": what.endpoint})

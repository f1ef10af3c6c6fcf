"""The paper's claims."""

from typing import Any

from prefect import flow

from flows.deployed.ending import stop_jobs
from flows.deployed.limits import gpus, one_at_a_time
from flows.forms.proof import ProofForm
from flows.forms.where import HERE, Where
from flows.watch import carry_out

_DEFAULT = ProofForm()


@flow(name="proof", flow_run_name="proof {what.out}", on_cancellation=[stop_jobs], on_crashed=[stop_jobs])
def proof(what: ProofForm = _DEFAULT, where: Where = HERE) -> dict[str, Any]:
    """What the paper claims, shown on the small model: claims with their numbers and pictures. An hour on two cores."""
    with one_at_a_time("proof", what.out), gpus(1, what.device, where):
        return carry_out("proof", what, where, {"report": f"{what.out}/report.md", "videos": what.out})

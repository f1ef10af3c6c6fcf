"""A model into service, and back if it does not come up."""

from typing import Any

from prefect import flow

from emo_data.errors import UserError
from flows.deployed.limits import one_at_a_time
from flows.forms.serve import ServeForm
from flows.forms.where import HERE, Where
from flows.rollout import Cluster, application
from flows.secrets import ray_token, service_token


@flow(name="serve", flow_run_name="serve {what.model}")
def serve(what: ServeForm, where: Where = HERE) -> dict[str, Any]:
    """Deploy a model on a Ray cluster, see that it is ready, and bring back what ran before if it is not."""
    return served(what, where)


def served(what: ServeForm, where: Where) -> dict[str, Any]:
    """As a step of any flow."""
    check(what, where)
    with one_at_a_time("service", where.cluster), Cluster(where.cluster, ray_token()) as cluster:
        before = cluster.applications()
        try:
            cluster.deploy([*before, application(what)], what.port)
            cluster.wait_until_ready(what.minutes * 60, what.endpoint, service_token())
        except BaseException:  # also where the run is cancelled meanwhile
            cluster.deploy(before, what.port)
            raise
    return {"model": what.model, "endpoint": what.endpoint or f"http://127.0.0.1:{what.port} on the cluster's nodes"}


def check(what: ServeForm, where: Where) -> None:
    """UserError where a service could not run there."""
    if not where.cluster:
        raise UserError("Ray cluster: a service needs one; on this machine alone, type `emo serve`")
    where.check(what)

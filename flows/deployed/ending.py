"""What a run that was cancelled or crashed leaves behind is stopped by whoever sees it end."""

from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger

from flows.forms.where import Where
from flows.notes import Notes, open_jobs
from flows.secrets import store_keys
from flows.watch import launcher_for


def stop_jobs(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A hook, which runs where the runner is: the flow's own process may be gone."""
    where = Where.model_validate(flow_run.parameters.get("where", {}))
    with store_keys(where) as keys:
        for spec in open_jobs(where.notes):
            if spec.flow_run == str(flow_run.id):
                launcher_for(where, keys).stop(spec.id)
                Notes(where.notes, spec.id).close()
                flow_run_logger(flow_run, flow).info("stopped %s", spec.id)

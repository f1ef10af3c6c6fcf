"""Jobs that nobody watches any more: the run is over, or its flow was killed together with its runner."""

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from emo_data.errors import UserError
from emo_data.lease import Taken, leased
from flows.forms.where import HERE, Where
from flows.launch.launcher import JobLost
from flows.notes import Notes, Spec, open_jobs
from flows.secrets import store_keys
from flows.watch import launcher_for

_ORPHANED = "the process of its flow is gone; its job was stopped: run again to go on"


@flow(name="reaper")
def reaper(where: Where = HERE) -> dict[str, str]:
    """Stop what computes for a run that is over or that nobody carries on. Returns why, by job."""
    stopped, lost = dict[str, str](), list[str]()
    with store_keys(where) as keys, get_client(sync_client=True) as client:
        for spec in open_jobs(where.notes):
            why = _orphaned(spec, where, client)
            if not why:
                continue
            try:
                launcher_for(Where.model_validate(spec.where), keys).stop(spec.id)
            except (JobLost, UserError) as error:  # one cluster that is away does not save the jobs of others
                lost.append(f"{spec.id}: {error}")
                continue
            Notes(where.notes, spec.id).close()
            stopped[spec.id] = why
    if FlowRunContext.get() is not None:
        get_run_logger().info("stopped: %s", stopped or "nothing")
    if lost:
        raise JobLost(
            f"not stopped: {'; '.join(lost)}; where a cluster is gone for ever, remove {where.notes}/open/JOB.json"
        )
    return stopped


def _orphaned(spec: Spec, where: Where, client: SyncPrefectClient) -> str:
    """Why nobody needs the job; "" where somebody does. A run that seems to go on is put right."""
    if spec.flow_run is None:
        return "" if _watched(spec, where) else "whoever called it is gone"
    try:
        run = client.read_flow_run(spec.flow_run)  # type: ignore[arg-type]  # a str will do
    except ObjectNotFound:
        return "its run was deleted"
    state = run.state
    if state is None or state.is_final():
        return f"its run is {state.name if state else 'nowhere'}"
    if state.type not in (StateType.RUNNING, StateType.CANCELLING) or _watched(spec, where):
        return ""  # one that waits to be tried again will find its job
    ended: State[None] = Cancelled(message=_ORPHANED) if state.is_cancelling() else Crashed(message=_ORPHANED)
    client.set_flow_run_state(run.id, ended, force=True)
    return "the process of its flow is gone"


def _watched(spec: Spec, where: Where) -> bool:
    try:
        with leased(Notes(where.notes, spec.id).folder, "flow"):
            return False
    except Taken:
        return True

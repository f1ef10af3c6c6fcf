"""A flow's side of a job: start it or find it again, follow it, show how far it is, and end it when the flow ends.

Nothing computes here; neither ray nor torch is imported.
"""

import time
import uuid
from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.tasks import Task

from emo_data.errors import UserError
from emo_data.lease import leased
from flows.forms.form import Form
from flows.forms.where import Where
from flows.launch.here import Here
from flows.launch.launcher import JobLost, Launcher, Life
from flows.launch.ray_jobs import RayJobs
from flows.notes import Kind, Notes, Progress, Result, Spec, versions
from flows.secrets import ray_token, service_token, store_keys
from flows.shown import Shown

POLL = 2.0
"""Seconds between two looks at a job."""
SILENCE = 120.0
"""Seconds without a beat after which a job that is said to run is given up."""


class JobFailed(RuntimeError):
    """A job ended with a fault that doing it again would meet again."""


def _was_lost(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), JobLost)


def carry_out(kind: Kind, form: Form, where: Where, places: Mapping[str, str], step: str = "") -> dict[str, Any]:
    """Have a job done, as a task of the run that this is called in; what a job returns, see `flows.work`.

    places: what to show of where things are. step: tells jobs of one kind in one run apart. Raises UserError where
    what was asked for is at fault, JobFailed, and JobLost where it died three times without a word.
    """
    where.check(form)
    if FlowRunContext.get() is None:
        return watch(kind, form, where, places, step)
    name = f"{kind} {step}".strip()
    return job.with_options(name=name, task_run_name=name)(kind, form, where, places, step)


@task(
    retries=2,  # of what died without a word: it goes on where it was
    retry_delay_seconds=10,
    retry_condition_fn=_was_lost,
    cache_policy=NO_CACHE,  # datasets and runs know themselves what is done, also of other runs
    persist_result=False,
)
def job(kind: Kind, form: Form, where: Where, places: Mapping[str, str], step: str) -> dict[str, Any]:
    """A job as a task, which Prefect's page shows, and tries again."""
    return watch(kind, form, where, places, step)


def watch(kind: Kind, form: Form, where: Where, places: Mapping[str, str], step: str) -> dict[str, Any]:
    """Start a job, or find it again, and follow it to its end. Whatever ends this call ends the job, too."""
    run = FlowRunContext.get()
    flow_run = str(run.flow_run.id) if run and run.flow_run else None
    spec = Spec(
        id=job_id(kind, step, flow_run or str(uuid.uuid4())),
        kind=kind,
        form=form.model_dump(mode="json"),
        where=where.model_dump(mode="json"),
        flow_run=flow_run,
        versions=versions(),
    )
    return follow(spec, f"{kind}{step}", places)


def job_id(kind: str, step: str, flow_run: str) -> str:
    """By which anybody who knows the run finds the job."""
    return f"emo-{kind}{step}-{flow_run}"


def launcher_for(where: Where, keys: dict[str, str]) -> Launcher:
    """Of the machine or cluster that the form names."""
    if where.cluster:
        return RayJobs(where.cluster, ray_token(), upload=where.code == "upload")
    token = service_token()
    return Here(where.notes, keys | ({"EMO_TOKEN": token} if token else {}))


def follow(spec: Spec, name: str, places: Mapping[str, str]) -> dict[str, Any]:
    """See `watch`. name: of what is shown."""
    where = Where.model_validate(spec.where)
    notes = Notes(where.notes, spec.id)
    with store_keys(where) as keys, leased(notes.folder, "flow"), Shown(name, notes) as shown:
        launcher = launcher_for(where, keys)
        shown.places({**places, "notes": notes.folder.url, "Ray dashboard": launcher.link(spec.id)})
        life, _ = launcher.status(spec.id)
        earlier = notes.result()
        if life is not Life.RUNNING and earlier and earlier.state == "done":
            notes.close()  # it was done while nobody watched
            return earlier.value
        try:
            if life is Life.RUNNING:
                shown.log.info("%s runs already; following it", spec.id)
            else:
                notes.open(spec)
                launcher.submit(spec)
            value = _follow(spec.id, where, launcher, notes, shown)
        except BaseException:  # a cancelled run comes as one that is no Exception
            launcher.stop(spec.id)
            notes.close()
            raise
        notes.close()
        return value


def _follow(job_name: str, where: Where, launcher: Launcher, notes: Notes, shown: Shown) -> dict[str, Any]:
    patience, now, read = Patience(where.stuck_minutes * 60), Progress(), 0
    while True:
        life, word = launcher.status(job_name)  # first: what a job that has ended wrote is there
        now = notes.progress() or now
        text, read = launcher.logs(job_name, read)
        shown.lines(text)
        if life is not Life.RUNNING:
            break
        shown.progress(now)
        patience.check(now)
        time.sleep(POLL)
    result = notes.result()
    shown.progress(now, over=result is not None and result.state == "done")
    return _judged(result, word or f"{job_name} is {life}")


def _judged(result: Result | None, word: str) -> dict[str, Any]:
    if result is None:
        raise JobLost(f"the job ended without a result: {word}")
    if result.state == "done":
        return result.value
    if result.state == "stopped":
        raise JobFailed("the job was stopped by somebody else; run again to go on")
    raise UserError(result.error) if result.usage else JobFailed(result.error)


class Patience:
    """With a job that is said to run."""

    def __init__(self, stuck: float) -> None:
        self._stuck, self._beat, self._mark = stuck, 0, Progress().mark
        self._beat_since = self._mark_since = time.monotonic()

    def check(self, now: Progress) -> None:
        """Raises JobLost where it does not live, or does not get on."""
        moment = time.monotonic()
        if now.beat != self._beat:
            self._beat, self._beat_since = now.beat, moment
        if now.mark != self._mark:
            self._mark, self._mark_since = now.mark, moment
        if self._beat and moment - self._beat_since > SILENCE:
            raise JobLost(f"no sign of life from the job for {SILENCE:.0f} s, though it is said to run")
        if moment - self._mark_since > self._stuck:
            raise JobLost(f"stuck: no progress for {self._stuck / 60:g} minutes, at {now.phase} {now.note}".rstrip())

"""A run in many processes: a Ray Train job on a Ray of its own or on any cluster.

Ray starts the processes, joins them by torch.distributed, and starts them again when one of them or its machine dies.
What a run is and how far it has come stands in its folder only: Ray is given no checkpoints, and each start goes on
from the newest complete one.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emo_core.training.crew import Crew
from emo_core.training.loop import DivergedError, Notice, OnStep, StoppedError
from emo_core.training.plan import Plan
from emo_core.training.prepare import prepare
from emo_core.training.ranks import Ranks
from emo_data.errors import UserError
from emo_data.on_ray import connected

STARTS = 3
"""So many in a row without a new checkpoint, and the run is given up."""
_LOOK_SECONDS = 0.2
_NOTES = "work/ray"
_PREEMPTION_STEPS = 10
"""Between looks at whether a machine is about to be taken away, at which all processes must look together."""
_OURS = (UserError, DivergedError, StoppedError)


def train_on_ray(
    plan: Plan, crew: Crew, *, on_step: OnStep, notice: Callable[[], Notice] = lambda: Notice.NONE
) -> None:
    """As `Trainer.train`, by as many workers as there is room for between the least and the most of the crew's.

    Raises UserError where this machine has not what they need, and RuntimeError where they die over and over.
    """
    cpus = 1 + crew.readers_each
    resources = {"CPU": cpus, **({"GPU": 1} if crew.gpu else {})}
    with connected(crew.address, crew.workers[1] * cpus):
        _check_room(crew, resources)
        # On this machine: of all machines, the one whose end is the end of this call, too.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        told: Any = ray.remote(num_cpus=0)(_Told).options(scheduling_strategy=here).remote()
        starts = 0
        while True:
            newest = plan.run.newest()
            on_step(newest, plan.recipe.steps, f"waiting for {crew.workers[0]} workers")
            error = _fit(_trainer(plan, crew, resources, told), told, on_step, notice)
            plan.run.folder.remove(_NOTES)
            outcome = ray.get(told.outcome.remote())
            if outcome is not None:
                raise outcome
            if error is None:
                return
            starts = 1 if plan.run.newest() > newest else starts + 1
            if starts >= STARTS:
                raise RuntimeError(
                    f"{plan.run.url}: its workers died {starts} times in a row without a new checkpoint: {error}"
                ) from error
            on_step(plan.run.newest(), plan.recipe.steps, "a worker died; starting again")


def _check_room(crew: Crew, resources: dict[str, int]) -> None:
    """Ray waits without end for machines that nobody will bring."""
    there, least = ray.cluster_resources(), crew.workers[0]
    for name, each in resources.items():
        if crew.address == "local" and there.get(name, 0) < least * each:
            raise UserError(f"--workers {least}: need {least * each} {name}, this machine has {there.get(name, 0):.0f}")


def _trainer(plan: Plan, crew: Crew, resources: dict[str, int], told: Any) -> TorchTrainer:
    path, filesystem = _storage(plan)
    least, most = crew.workers
    return TorchTrainer(
        _work,
        train_loop_config={"plan": plan, "told": told, "readers": crew.readers_each},
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),  # type: ignore[arg-type]  # of Train V2
            use_gpu="GPU" in resources,
            resources_per_worker=resources,
            accelerator_type=crew.accelerator,
        ),
        run_config=RunConfig(
            # Never the name of an earlier job: Ray would take up where that one ended, which may be its end.
            name=uuid.uuid4().hex,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=-1),  # type: ignore[call-arg]
        ),
    )


def _fit(trainer: TorchTrainer, told: Any, on_step: OnStep, notice: Callable[[], Notice]) -> Exception | None:
    """One Ray Train job, on a thread of its own; what it failed of."""
    for name in ("ray.train", "ray.train.v2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what it would say, we say
    failed: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - it is handed to the main thread
            failed.append(error)

    thread = threading.Thread(target=fit, daemon=True, name="ray-train")
    thread.start()
    shown: tuple[int, int, str] | None = None
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
        asked = notice()
        progress = ray.get(told.look.remote(int(asked)))
        if asked is Notice.STOP and progress is None:
            raise StoppedError("stopped before any worker had begun")
        if progress is not None and progress != shown:
            shown = progress
            on_step(*progress)
    return failed[0] if failed else None


def _storage(plan: Plan) -> tuple[str, Any]:
    """Where Ray Train notes what it does: in the run's folder, which all machines must reach anyway."""
    folder = plan.run.folder.below(_NOTES)
    if folder.local:
        return str(Path(folder.url).absolute()), None
    return folder.url.partition("://")[2], pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(folder.filesystem))


class _Told:
    """Between the first worker and whoever started the run."""

    def __init__(self) -> None:
        self._progress: tuple[int, int, str] | None = None
        self._asked = int(Notice.NONE)
        self._outcome: Exception | None = None

    def step(self, done: int, total: int, note: str) -> int:
        self._progress = (done, total, note)
        return self._asked

    def look(self, asked: int) -> tuple[int, int, str] | None:
        self._asked = max(self._asked, asked)
        return self._progress

    def end(self, error: Exception) -> None:
        self._outcome = self._outcome or error

    def outcome(self) -> Exception | None:
        return self._outcome


class _Teller:
    """A worker's end: tells now and then, without waiting for the answer."""

    def __init__(self, told: Any, leads: bool) -> None:
        self._told, self._leads = told, leads
        self._answer: Any = None
        self._said = 0.0
        self._asked, self._steps, self._warned = Notice.NONE, 0, False

    def on_step(self, done: int, total: int, note: str) -> None:
        if (self._leads and time.monotonic() - self._said > _LOOK_SECONDS) or done == total:
            self._said = time.monotonic()
            self._answer = self._told.step.remote(done, total, note)

    def notice(self) -> Notice:
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._asked = Notice(ray.get(self._answer))
            self._answer = None
        self._steps += 1
        if not self._warned and self._steps % _PREEMPTION_STEPS == 0 and ray.train.get_preemption_info() is not None:
            self._warned = True
            return max(self._asked, Notice.SAVE)
        return self._asked


def _work(config: dict[str, Any]) -> None:
    """What every worker does."""
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    teller = _Teller(config["told"], ranks.leads)
    try:
        device = get_device()
        if device.type != "cpu":
            torch.accelerator.set_device_index(device.index or 0)  # what is exchanged goes through it
        trainer = prepare(config["plan"], device, ranks)
        trainer.readers = config["readers"]
        trainer.train(teller.on_step, teller.notice)
    except _OURS as error:
        ray.get(config["told"].end.remote(error))
        if not isinstance(error, StoppedError):  # all processes stop by themselves
            raise  # the others may be waiting for this one

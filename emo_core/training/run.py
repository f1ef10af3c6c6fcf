"""A run from its plan to its model, in this process or in many."""

from collections.abc import Callable

import torch

from emo_core.training.crew import Crew, check_crew
from emo_core.training.loop import Notice, OnStep
from emo_core.training.plan import Plan
from emo_core.training.prepare import prepare
from emo_data.lease import leased


def carry_out(
    plan: Plan,
    device: torch.device,
    crew: Crew | None = None,
    on_step: OnStep = lambda done, total, note: None,
    notice: Callable[[], Notice] = lambda: Notice.NONE,
) -> None:
    """Train to the last step; what an earlier call has done is not done again. See `Trainer.train` for what it raises.

    device: of this process; Ray's workers have their own. Two processes that carry out one run are an error.
    """
    crew = crew or Crew()
    check_crew(crew, plan.recipe.batch)
    with leased(plan.run.folder, "training") as lease:
        if plan.run.finished():
            plan.run.tidy()  # a kill may have come between the model and this
            return

        def asked() -> Notice:
            lease.check()  # before anything of this step is written
            return notice()

        if crew.workers == (0, 0):
            trainer = prepare(plan, device)
            trainer.readers = crew.readers_each
            trainer.train(on_step, asked)
        else:
            from emo_core.training.on_ray import train_on_ray

            train_on_ray(plan, crew, on_step=on_step, notice=asked)

"""What a run trains, what it leaves as it is, and where its weights come from; without any weights being read."""

import torch
from pydantic import BaseModel, ConfigDict

from emo_core.model.emo import NEW_LAYERS
from emo_core.training.cost import staged
from emo_core.training.plan import Plan


class Part(BaseModel):
    """A part of the model in one stage."""

    model_config = ConfigDict(extra="forbid")

    part: str
    parameters: int
    trained: int
    """How many of them."""
    source: str


def parts(plan: Plan) -> list[Part]:
    """All parts of the model that a run trains on or with."""
    recipe, config = plan.recipe, plan.run.card.config
    with torch.device("meta"):
        model, trained = staged(config, recipe)
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        count = counts.setdefault(_part(name), [0, 0])
        count[0] += parameter.numel()
        count[1] += parameter.numel() if name in trained else 0
    return [
        Part(part=part, parameters=count, trained=of_it, source=_source(plan, part))
        for part, (count, of_it) in counts.items()
    ]


def _part(name: str) -> str:
    where, _, rest = name.partition(".")
    if where != "backbone":
        return where
    kinds = {"speed layers": NEW_LAYERS[3], "temporal modules": ("motion_modules.",), "audio layers": NEW_LAYERS[2][1:]}
    return (
        f"backbone, {next((kind for kind, of_it in kinds.items() if any(part in rest for part in of_it)), 'spatial')}"
    )


_BORN = {"backbone, temporal modules": 2, "backbone, audio layers": 2, "backbone, speed layers": 3}
_BORN |= {"audio_projection": 2, "speed_encoder": 3}
_PUBLIC_OF = {"backbone, spatial": "unet", "reference_net": "unet", "backbone, temporal modules": "motion"}


def _source(plan: Plan, part: str) -> str:
    if _BORN.get(part, 1) < plan.recipe.stage:
        return str(plan.init)
    public = plan.public.get(_PUBLIC_OF.get(part, ""))
    return "new, random" if public is None else str(public)

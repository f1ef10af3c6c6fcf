"""What jobs do: for each kind the same calls as the command of its name makes."""

from importlib import import_module
from typing import Any

from flows.forms.where import Where
from flows.notes import Spec
from flows.told import Told


def do(spec: Spec, told: Told) -> dict[str, Any]:
    """Carry it out; what it returns is for people and for the next flow. UserError for what was asked wrongly."""
    # Only what this kind needs is imported: a batch needs no torch.
    work = import_module(f"flows.work.{spec.kind}").work
    return dict(work(spec.form, Where.model_validate(spec.where), told))


def ray_address(where: Where) -> str:
    """For `emo_data.on_ray`: within a cluster the one that the job is in, else one of its own."""
    return "auto" if where.cluster else "local"

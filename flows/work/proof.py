"""A job that shows the paper's claims on the small model."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from flows.forms.proof import ProofForm
from flows.forms.where import Where
from flows.proof import ProofSettings, proof
from flows.told import Told
from flows.work.pictures import shrunk


def work(given: dict[str, Any], where: Where, told: Told) -> dict[str, Any]:
    """See `flows.work.do`."""
    form = ProofForm.model_validate(given)
    found = None if form.device == "cpu" else torch.accelerator.current_accelerator(True)
    out = Path(form.out)
    report = proof(out, ProofSettings(seed=form.seed), found or torch.device("cpu"), told.phase)
    told.page("report", (out / "report.md").read_text(encoding="utf-8"))
    for picture in sorted((out / "claims").glob("*.png")):
        told.picture(picture.stem.replace("_", "-").lower(), partial(shrunk, picture))
    return report

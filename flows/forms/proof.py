"""The form of the proof."""

from typing import Literal

from pydantic import Field

from flows.forms.form import Disk, Form


class ProofForm(Form):
    """The paper's claims on the small model, from nothing."""

    out: Disk = Field(
        "build/proof", title="Folder", description="A new one, or an earlier proof's: what is done stays."
    )
    seed: int = Field(0, title="Seed", ge=0, description="Another one makes other clips, and trains in another order.")
    device: Literal["auto", "cpu"] = Field(
        "auto", title="Compute on", description="auto: the accelerator if there is one."
    )

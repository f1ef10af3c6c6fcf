"""The form of an evaluation."""

from typing import Literal, Self

from pydantic import Field, model_validator

from flows.forms.form import Disk, Form, Place

Metric = Literal["fid", "fvd", "sync", "fsim", "efid", "motion"]


class EvaluateForm(Form):
    """Videos that are there against their truth, or a model on the held-out people of a dataset."""

    out: Place = Field(title="Folder", description="For report.json, a page and plots; and for videos that are made.")
    generated: Disk | None = Field(
        None, title="Videos", description="Folder or manifest of generated videos; empty: the model makes them."
    )
    truth: Disk | None = Field(
        None, title="Truth", description="Folder or manifest to compare with, unless the manifest of videos names it."
    )
    model: Place | None = Field(None, title="Model", description="RUN/model of stage 2 or 3; empty where videos are.")
    data: Place | None = Field(None, title="Dataset", description="Whose held-out people the model shall move.")
    clips: int | None = Field(None, title="Clips", ge=1, description="How many of them are drawn; empty: all.")
    seconds: float | None = Field(None, title="Seconds", ge=1, description="Of each clip; empty: whole clips.")
    steps: int = Field(15, title="Denoising steps", ge=1, le=1000, description="Per clip, with dpm++.")
    seed: int = Field(0, title="Seed", ge=0, description="Of the drawing and of the noise.")
    metrics: list[Metric] = Field(
        default=["fid", "fvd", "sync", "fsim", "efid", "motion"],
        title="Metrics",
        min_length=1,
        description="Of the paper's tables.",
    )
    weights: Disk | None = Field(
        None, title="Standard networks", description="Folder with them; what is not there is measured offline."
    )
    workers: int | None = Field(None, title="Workers", ge=0, description="Empty: one for each core; 0: without Ray.")
    device: Literal["auto", "cpu"] = Field(
        "auto", title="Compute on", description="auto: the accelerator if there is one."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.generated is None) == (self.model is None):
            raise ValueError("give Videos or a Model, one of the two")
        if (self.model is None) != (self.data is None):
            raise ValueError("Model and Dataset go together")
        return self

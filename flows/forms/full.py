"""The form of the whole chain."""

from typing import Literal

from pydantic import Field

from flows.forms.evaluate import EvaluateForm, Metric
from flows.forms.form import Place, Steps
from flows.forms.ingest import IngestForm, Sources, Videos
from flows.forms.serve import ServeForm, Service
from flows.forms.train import TrainForm, Training


class FullForm(Sources):
    """From videos to a model that is scored and, if wanted, in service."""

    out: Place = Field(
        title="Folder", description="For data, stage1, stage2, stage3 and evaluation; what is done stays."
    )
    videos: Videos = Field(Videos(), title="Ingestion")
    training: Training = Field(Training(), title="Training")
    steps1: Steps = Field(None, title="Steps of stage 1", description="Empty: the recipe's.")
    steps2: Steps = Field(None, title="Steps of stage 2", description="Empty: the recipe's.")
    steps3: Steps = Field(None, title="Steps of stage 3", description="Empty: the recipe's.")
    clips: int | None = Field(None, title="Test clips", ge=1, description="Of held-out people; empty: all.")
    seconds: float | None = Field(None, title="Test seconds", ge=1, description="Of each clip; empty: whole clips.")
    denoising_steps: int = Field(15, title="Denoising steps", ge=1, le=1000, description="Of the test videos.")
    metrics: list[Metric] = Field(
        default=["fid", "fvd", "sync", "fsim", "efid", "motion"],
        title="Metrics",
        min_length=1,
        description="Of the paper's tables.",
    )
    service: Service | None = Field(None, title="Service", description="Empty: the model is not put into service.")

    def place(self, name: str) -> str:
        """In the folder."""
        return f"{self.out.rstrip('/')}/{name}"

    def ingestion(self) -> IngestForm:
        """Its first step."""
        return IngestForm(**self.videos.model_dump(), sources=self.sources, out=self.place("data"))

    def stage(self, stage: Literal[1, 2, 3], init: str | None) -> TrainForm:
        """A stage after the model `init`."""
        return TrainForm(
            **self.training.model_dump(),
            stage=stage,
            data=self.place("data"),
            out=self.place(f"stage{stage}"),
            init=init,
            steps={1: self.steps1, 2: self.steps2, 3: self.steps3}[stage],
        )

    def evaluation(self, model: str) -> EvaluateForm:
        """Of the model, on the held-out people."""
        return EvaluateForm(
            out=self.place("evaluation"),
            model=model,
            data=self.place("data"),
            clips=self.clips,
            seconds=self.seconds,
            steps=self.denoising_steps,
            seed=self.training.seed,
            metrics=self.metrics,
            device=self.training.device,
        )

    def serving(self, model: str) -> ServeForm | None:
        """Of the model; None where that is not wanted."""
        return None if self.service is None else ServeForm(**self.service.model_dump(), model=model)

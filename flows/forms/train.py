"""The form of a stage of training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from flows.forms.form import Disk, Form, Place


class Training(Form):
    """How stages are trained."""

    preset: Literal["tiny", "sd15"] = Field(
        "tiny", title="Size of the model", description="tiny: a laptop's; sd15: the paper's, for GPUs."
    )
    weights: Disk | None = Field(
        None, title="Public weights", description="Folder that emo weights fetch filled: unet and vae, or motion."
    )
    micro_batch: int | None = Field(
        None, title="Samples at a time", ge=1, description="Fewer need less memory and change nothing else."
    )
    keep: list[Annotated[str, Field(pattern=r"^\w+\s*[<>]=?\s*[-+.\w]+$")]] = Field(
        default_factory=list, title="Keep", description="Only clips that pass, such as blur<0.5 or yaw_range>=15."
    )
    cache_latents: Place | None = Field(
        None, title="Latents", description="A folder for encoded clips, which all stages and runs can share."
    )
    checkpoint_every: int | None = Field(
        None, title="Checkpoint every", ge=1, description="Steps; empty: the recipe's. A killed run repeats no more."
    )
    seed: int = Field(0, title="Seed", ge=0, description="Another one draws other samples and noise.")
    workers: int | None = Field(
        None, title="Workers", ge=0, description="They share a batch; empty: one for each GPU here, one on a cluster."
    )
    accelerator: str | None = Field(
        None, title="Type of GPU", pattern=r"^[\w.-]+$", description="On a cluster, as Ray names it: H100, A100-80G."
    )
    device: Literal["auto", "cpu"] = Field(
        "auto", title="Compute on", description="auto: the accelerator if there is one."
    )


class _Stage(Form):
    stage: Literal[1, 2, 3] = Field(title="Stage", description="1: images, 2: video and voice, 3: head speed.")
    data: Place = Field(title="Dataset", description="That ingest made.")
    out: Place = Field(
        title="Run", description="A new folder or s3:// place, or an unfinished run: it goes on where it stopped."
    )
    init: Place | None = Field(
        None, title="Model before", description="RUN/model of the stage before; empty for stage 1."
    )
    steps: int | None = Field(None, title="Steps", ge=1, description="Empty: the recipe's.")
    train_spatial: bool = Field(
        False, title="Train the spatial part", description="In stage 2, go on training what stage 1 trained."
    )


class TrainForm(Training, _Stage):
    """One stage of training."""

    @model_validator(mode="after")
    def _starts_from_the_stage_before(self) -> Self:
        if (self.init is None) != (self.stage == 1):
            need = "starts from nothing" if self.init else f"needs the model of stage {self.stage - 1}"
            raise ValueError(f"stage {self.stage} {need}: see Model before")
        if self.train_spatial and self.stage != 2:
            raise ValueError("Train the spatial part is for stage 2")
        return self

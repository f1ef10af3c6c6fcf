"""What a person fills in to have something done: one form for each kind of job, and one for where it runs.

Prefect makes pages of them and refuses what does not fit before anything starts. No form has a place for a secret.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Place = Annotated[str, Field(min_length=1)]
"""A local path or s3://…"""


class Form(BaseModel):
    """Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class IngestForm(Form):
    """Which videos become which dataset."""

    sources: list[Place] = Field(
        title="Videos",
        min_length=1,
        description="Files, folders, globs, prefixes like s3://bucket/talks, or manifests: CSV, JSONL, Parquet.",
    )
    out: Place = Field(
        title="Dataset", description="A new folder or s3:// place, or a dataset made alike: it gets what it lacks."
    )
    size: int = Field(
        512, title="Picture size", ge=32, le=2048, multiple_of=2, description="Pixels per side of what is stored."
    )
    min_seconds: float = Field(2.0, title="Shortest clip", gt=0, le=3600, description="Seconds.")
    max_seconds: float = Field(10.0, title="Longest clip", gt=0, le=3600, description="Seconds.")
    audio_model: Place = Field(
        "facebook/wav2vec2-base-960h", title="Audio model", description="A wav2vec2: folder or hub id; tiny needs none."
    )
    identity_pattern: str | None = Field(
        None,
        title="Who speaks",
        description="Regular expression with one group that finds a person in a file's name; empty: each file its own.",
    )
    test_share: float = Field(
        0.1, title="Held out", ge=0, lt=1, description="Share of the people who are kept for testing."
    )
    workers: int | None = Field(
        None, title="Workers", ge=0, description="Ray workers; empty: as many as fit; 0: without Ray."
    )
    listeners: int = Field(0, title="Listeners", ge=0, description="Workers with a GPU that do nothing but wav2vec2.")
    retry_faults: bool = Field(
        False, title="Retry faults", description="Do again what crashed, hung or took all memory in earlier runs."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_seconds < self.min_seconds:
            raise ValueError("the longest clip must not be shorter than the shortest")
        return self


class TrainForm(Form):
    """One stage of training."""

    stage: Literal[1, 2, 3] = Field(title="Stage", description="1: images, 2: video and voice, 3: head speed.")
    data: Place = Field(title="Dataset", description="That ingest made.")
    out: Place = Field(
        title="Run", description="A new folder or s3:// place, or an unfinished run: it goes on where it stopped."
    )
    init: Place | None = Field(
        None, title="Model before", description="RUN/model of the stage before; empty for stage 1."
    )
    preset: Literal["tiny", "sd15"] = Field(
        "tiny", title="Size of the model", description="tiny: a laptop's; sd15: the paper's, for GPUs."
    )
    weights: Place | None = Field(
        None, title="Public weights", description="Folder that emo weights fetch filled: unet and vae, or motion."
    )
    steps: int | None = Field(None, title="Steps", ge=1, description="Empty: the recipe's.")
    micro_batch: int | None = Field(
        None, title="Samples at a time", ge=1, description="Fewer need less memory and change nothing else."
    )
    keep: list[Annotated[str, Field(pattern=r"^\w+\s*[<>]=?\s*[-+.\w]+$")]] = Field(
        default_factory=list, title="Keep", description="Only clips that pass, such as blur<0.5 or yaw_range>=15."
    )
    train_spatial: bool = Field(
        False, title="Train the spatial part", description="In stage 2, go on training what stage 1 trained."
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

    @model_validator(mode="after")
    def _starts_from_the_stage_before(self) -> Self:
        if (self.init is None) != (self.stage == 1):
            need = "starts from nothing" if self.init else f"needs the model of stage {self.stage - 1}"
            raise ValueError(f"stage {self.stage} {need}: see Model before")
        if self.train_spatial and self.stage != 2:
            raise ValueError("Train the spatial part is for stage 2")
        return self


Metric = Literal["fid", "fvd", "sync", "fsim", "efid", "motion"]


class EvaluateForm(Form):
    """Videos that are there against their truth, or a model on the held-out people of a dataset."""

    out: Place = Field(title="Folder", description="For report.json, a page and plots; and for videos that are made.")
    generated: Place | None = Field(
        None, title="Videos", description="Folder or manifest of generated videos; empty: the model makes them."
    )
    truth: Place | None = Field(
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
    weights: Place | None = Field(
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


class GenerateForm(Form):
    """A manifest's videos, by a service that is there. Its token is EMO_TOKEN, or the block emo-token."""

    endpoint: str = Field(
        "http://127.0.0.1:8000", title="Service", pattern=r"^https?://\S+$", description="Where emo serve answers."
    )
    manifest: Place = Field(
        title="Manifest", description="CSV, JSONL or Parquet with a row for each video: portrait, audio; name, speed…"
    )
    out: Place = Field(title="Folder", description="A new one, or that of an earlier batch: it gets what it lacks.")
    at_a_time: int = Field(8, title="At a time", ge=1, le=100, description="Jobs that the service has of us.")


class ServeForm(Form):
    """A model into service on a Ray cluster; if it does not come up, what ran before comes back."""

    model: Place = Field(title="Model", description="RUN/model of stage 2 or 3, where all nodes see it.")
    name: str = Field(
        "default", title="Name", pattern=r"^[\w.-]{1,100}$", description="By which clients ask for the model."
    )
    folder: Place = Field(title="Folder", description="For jobs and their videos: on a disk that all nodes see.")
    gpu: bool = Field(True, title="GPUs", description="One for each maker of videos; off: makers compute on CPUs.")
    makers: int = Field(1, title="Makers", ge=1, description="At least so many videos at a time.")
    most_makers: int = Field(4, title="Most makers", ge=1, description="At most, when many jobs wait.")
    port: int = Field(8000, title="Port", ge=1, le=65535, description="Of the loopback of the cluster's nodes.")
    endpoint: str | None = Field(
        None,
        title="Ask there",
        pattern=r"^https?://\S+$",
        description="Where the service must say that it is ready; empty: Ray's word is enough.",
    )
    minutes: float = Field(10, title="Patience", gt=0, le=120, description="Minutes until it is taken back.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.most_makers < self.makers:
            raise ValueError("Most makers must not be fewer than Makers")
        return self


class ProofForm(Form):
    """The paper's claims on the small model, from nothing."""

    out: Place = Field("build/proof", title="Folder", description="A new one, or an earlier proof's: what is done stays.")
    device: Literal["auto", "cpu"] = Field(
        "auto", title="Compute on", description="auto: the accelerator if there is one."
    )


class Where(Form):
    """Where a job runs, and how it is looked after."""

    cluster: str = Field(
        "",
        title="Ray cluster",
        pattern=r"^(https?://\S+)?$",
        description="Its dashboard, like http://head:8265, with the token in RAY_AUTH_TOKEN or the block ray-token; "
        "empty: this machine.",
    )
    notes: Place = Field(
        "build/jobs",
        title="Notes",
        description="Folder where jobs say how far they are; with a cluster one that it sees, too: s3:// or shared.",
    )
    code: Literal["image", "upload"] = Field(
        "image", title="Code", description="image: the cluster has this release; upload: it gets the flows' own code."
    )
    credentials: str = Field(
        "",
        title="Object store",
        pattern=r"^[a-z0-9-]*$",
        description="Name of a block with an object store's keys; empty: the usual AWS variables. A cluster has its own.",
    )
    stuck_minutes: float = Field(
        60, title="Stuck after", gt=0, description="Minutes without any progress until a job is stopped."
    )

    @model_validator(mode="after")
    def _seen_from_both_sides(self) -> Self:
        if self.cluster and "://" not in self.notes and not Path(self.notes).is_absolute():
            raise ValueError("with a Ray cluster, Notes must be s3:// or an absolute path of a disk that it shares")
        if not self.cluster and "://" in self.notes:
            raise ValueError("without a Ray cluster, Notes must be a local folder")
        return self

"""The form of a deployment of the service."""

from typing import Self

from pydantic import Field, model_validator

from flows.forms.form import Disk, Form, Place


class Service(Form):
    """How a model is put into service on a Ray cluster."""

    name: str = Field(
        "default", title="Name", pattern=r"^[\w.-]{1,100}$", description="By which clients ask for the model."
    )
    folder: Disk = Field(title="Folder", description="For jobs and their videos: on a disk that all nodes see.")
    device: str = Field(
        "cpu",
        title="Compute on",
        pattern=r"^[a-z]+$",
        description="cpu, or an accelerator as torch names it, which means a GPU for each maker of videos.",
    )
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


class _Model(Form):
    model: Place = Field(title="Model", description="RUN/model of stage 2 or 3, where all nodes see it.")


class ServeForm(Service, _Model):
    """A model into service; if it does not come up, what ran before comes back."""

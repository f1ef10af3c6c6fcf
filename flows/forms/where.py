"""The form that says where a job runs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from emo_data.errors import UserError
from flows.forms.form import Form, Place, is_half_said


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
        description="Block with an object store's keys; empty: the usual AWS variables. A cluster has its own.",
    )
    stuck_minutes: float = Field(
        60, title="Stuck after", gt=0, description="Minutes without any progress until a job is stopped."
    )

    @model_validator(mode="after")
    def _seen_from_both_sides(self) -> Self:
        if self.cluster and is_half_said(self.notes):
            raise ValueError("with a Ray cluster, Notes must be s3:// or an absolute path of a disk that it shares")
        if not self.cluster and "://" in self.notes:
            raise ValueError("without a Ray cluster, Notes must be a local folder")
        return self

    def check(self, form: Form) -> None:
        """UserError where a form has a path that a cluster's nodes would look for elsewhere."""
        for title, place in form.half_said() if self.cluster else ():
            raise UserError(
                f"{title} {place}: nodes of a Ray cluster start elsewhere; give a whole path that they share, or s3://…"
            )


HERE = Where()
"""This machine."""

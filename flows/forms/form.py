"""What all forms are."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Place = Annotated[str, Field(min_length=1)]
"""A local path or s3://…"""
Steps = Annotated[int, Field(ge=1)] | None


class Form(BaseModel):
    """Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

"""What all forms are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _on_a_disk(place: str) -> str:
    if "://" in place:
        raise ValueError("must be on a disk: a path, not the address of a store")
    return place


_PLACE = "place"
Place = Annotated[str, Field(min_length=1), _PLACE]
"""A local path or s3://…"""
Disk = Annotated[Place, AfterValidator(_on_a_disk)]
"""A local path: videos, reports and what else many programs read."""
Steps = Annotated[int, Field(ge=1)] | None


class Form(BaseModel):
    """Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def half_said(self) -> Iterator[tuple[str, str]]:
        """(title, place) of paths that depend on where somebody stands."""
        hints = get_type_hints(type(self), include_extras=True)
        for name, field in type(self).model_fields.items():
            said = getattr(self, name)
            for place in said if isinstance(said, list) else [said]:
                if place and _is_place(hints[name]) and is_half_said(place):
                    yield field.title or name, place


def is_half_said(place: str) -> bool:
    """Whether it depends on where somebody stands."""
    return "://" not in place and not Path(place).is_absolute()


def _is_place(hint: Any) -> bool:
    return _PLACE in getattr(hint, "__metadata__", ()) or any(map(_is_place, get_args(hint)))

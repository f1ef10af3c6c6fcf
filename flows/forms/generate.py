"""The form of a batch of videos."""

from pydantic import Field

from flows.forms.form import Disk, Form


class GenerateForm(Form):
    """A manifest's videos, by a service that is there. Its token is EMO_TOKEN, or the block emo-token."""

    endpoint: str = Field(
        "http://127.0.0.1:8000", title="Service", pattern=r"^https?://\S+$", description="Where emo serve answers."
    )
    manifest: Disk = Field(
        title="Manifest", description="CSV, JSONL or Parquet with a row for each video: portrait, audio; name, speed…"
    )
    out: Disk = Field(title="Folder", description="A new one, or that of an earlier batch: it gets what it lacks.")
    at_a_time: int = Field(8, title="At a time", ge=1, le=100, description="Jobs that the service has of us.")

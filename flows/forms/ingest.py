"""The form of an ingestion."""

from typing import Self

from pydantic import Field, model_validator

from flows.forms.form import Form, Place


class Sources(Form):
    """Which videos."""

    sources: list[Place] = Field(
        title="Videos",
        min_length=1,
        description="Files, folders, globs, prefixes like s3://bucket/talks, or manifests: CSV, JSONL, Parquet.",
    )


class Videos(Form):
    """How videos are ingested."""

    size: int = Field(
        512, title="Picture size", ge=32, le=2048, multiple_of=2, description="Pixels per side of what is stored."
    )
    min_seconds: float = Field(2.0, title="Shortest clip", gt=0, le=3600, description="Seconds.")
    max_seconds: float = Field(10.0, title="Longest clip", gt=0, le=3600, description="Seconds.")
    audio_model: str = Field(
        "facebook/wav2vec2-base-960h",
        min_length=1,
        title="Audio model",
        description="A wav2vec2: folder or hub id; tiny needs none.",
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


class _Places(Sources):
    out: Place = Field(
        title="Dataset", description="A new folder or s3:// place, or a dataset made alike: it gets what it lacks."
    )


class IngestForm(Videos, _Places):
    """Which videos become which dataset."""

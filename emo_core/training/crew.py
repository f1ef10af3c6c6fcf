"""Who carries a run out: this process, or so many workers on a Ray."""

from pydantic import BaseModel, ConfigDict, Field

from emo_data.errors import UserError


class Crew(BaseModel):
    """Who carries a run out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: tuple[int, int] = Field(default=(0, 0), description="the least and the most; 0: this process, without Ray")
    address: str = Field(default="local", description="of a Ray: see emo_data.on_ray")
    accelerator: str | None = Field(default=None, description="a type of GPU, as Ray names it")
    gpu: bool = Field(default=False, description="whether every worker has one")
    readers: int | None = Field(
        default=None,
        ge=0,
        description="processes for each worker that read samples ahead; None: 4 with a GPU, 0 without",
    )

    @property
    def readers_each(self) -> int:
        """Processes for each worker that read samples ahead."""
        return (4 if self.gpu else 0) if self.readers is None else self.readers


def divisors(batch: int) -> list[int]:
    """The numbers of workers that can share a batch evenly."""
    return [count for count in range(1, batch + 1) if batch % count == 0]


def check_crew(crew: Crew, batch: int) -> None:
    """UserError where the workers cannot share the batch evenly, which would leave some of them waiting."""
    wrong = [count for count in crew.workers if count and batch % count]
    if wrong:
        fitting = ", ".join(map(str, divisors(batch)))
        raise UserError(f"--workers {wrong[0]}: cannot share a batch of {batch} evenly; {fitting} can")
    if crew.workers == (0, 0) and (crew.address != "local" or crew.accelerator is not None):
        raise UserError("--workers 0 does without Ray: leave --address and --accelerator out")

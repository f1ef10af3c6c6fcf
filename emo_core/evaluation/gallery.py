"""One voice on many portraits (EMO Figure 4), and one face that sings for a minute (EMO Figure 5)."""

from collections.abc import Sequence
from pathlib import Path

from emo_core.evaluation.exhibit import write_rows
from emo_core.evaluation.trial import OnProgress, Trial, make_videos
from emo_core.inference.export import write_sheet
from emo_core.inference.generate import Loaded
from emo_core.inference.sampling import Sampling

SINGING = "singing"


def make_gallery(
    loaded: Loaded,
    portraits: Sequence[Path],
    voice: Path,
    song: Path,
    sampling: Sampling,
    out: Path,
    on_progress: OnProgress,
) -> list[Path]:
    """Every portrait speaking with `voice`, the first one singing `song`: OUT/videos/*.mp4, and OUT/portraits.png and
    OUT/song.png with their frames; all these files. UserError as `make_videos`."""
    knows_speeds = loaded.pipeline.checkpoint.card.speed_buckets is not None
    trials = [Trial(f"{number:03d}_{one.stem}", one, voice) for number, one in enumerate(portraits)]
    trials.append(Trial("song", portraits[0], song, speed=SINGING if knows_speeds else Trial.speed))
    *spoken, sung = make_videos(loaded, trials, sampling, out / "videos", on_progress)
    sheets = [out / "portraits.png", out / "song.png"]
    write_rows([(one.stem, video, None) for one, video in zip(portraits, spoken, strict=True)], sheets[0])
    write_sheet(sung, sheets[1])
    return [*sheets, *spoken, sung]
